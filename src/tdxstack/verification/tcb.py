"""How good the platform is: TCB info against PCK and quote, QE identity against the QE report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from tdxstack.abi.quote import Quote, QuoteBody, TdBody10, TdBody15
from tdxstack.abi.sgx_report import SGX_FLAG_DEBUG, SgxReportBody
from tdxstack.verification.chains import stamp
from tdxstack.verification.evaluation import Evaluation, converge, evaluate, find_module, module_name
from tdxstack.verification.inputs import Loaded, Terms
from tdxstack.verification.qe_identity import QE, TD_QE, QeIdentity
from tdxstack.verification.result import Check, fail, judged, not_applicable, unknown
from tdxstack.verification.sgx_extension import SgxExtension
from tdxstack.verification.shortfalls import Shortfall, Update, described, isv_shortfalls
from tdxstack.verification.tcb_info import SGX, TDX, IsvLevel, TcbInfo, TcbStatus

_CONFIGURATION = "the platform's configuration must change, usually in the BIOS"
_HARDENING = "software in the TD or enclave must be hardened against the advisories"
_RELAUNCH = "the TDX module was updated after the TD had started: start the TD again"
_ADVICE: Final = {
    TcbStatus.SW_HARDENING_NEEDED: _HARDENING,
    TcbStatus.CONFIGURATION_NEEDED: _CONFIGURATION,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: f"{_CONFIGURATION}; {_HARDENING}",
    TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED: _CONFIGURATION,
    TcbStatus.TD_RELAUNCH_ADVISED: _RELAUNCH,
    TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED: f"{_RELAUNCH}; {_CONFIGURATION}",
    TcbStatus.REVOKED: "Intel has revoked this TCB level",
    TcbStatus.NOT_SUPPORTED: "no TCB level matches",
}
"""What to do about a status, besides the updates that raise what is short."""

_OTHER_PLATFORM: Final = "the TCB info is about another kind of platform"


class PlatformSvns(NamedTuple):
    """What a quote says of security versions.

    TEE_TCB_SVN and TEE_TCB_SVN2 are 16 bytes each; both are empty for SGX, the second for TDX 1.0.
    """

    is_td: bool
    tee_tcb_svn: bytes
    tee_tcb_svn2: bytes
    qe_isvsvn: int

    @classmethod
    def of(cls, quote: Quote) -> PlatformSvns:
        """Those of `quote`."""
        body, isvsvn = quote.body, quote.signature.qe_report.isv_svn
        if not isinstance(body, TdBody10):
            return cls(False, b"", b"", isvsvn)
        return cls(True, body.tee_tcb_svn, body.tee_tcb_svn2 if isinstance(body, TdBody15) else b"", isvsvn)


@dataclass(frozen=True, slots=True)
class Tcb:
    """The evaluation of a platform, as far as it could be made.

    `qe_level` is the level that the quoting enclave reaches, None if none; `evaluation` is None when
    `problem` kept it from being made at all, or when the QE identity could not be read (`qe_problem`).
    """

    evaluation: Evaluation | None
    problem: str
    qe_level: IsvLevel | None
    qe_problem: str
    qe_shortfalls: tuple[Shortfall, ...]

    @classmethod
    def of(
        cls,
        info: Loaded[TcbInfo],
        identity: Loaded[QeIdentity],
        extension: Loaded[SgxExtension],
        svns: PlatformSvns,
    ) -> Tcb:
        """Evaluate with what is there."""
        is_td, launch, current, qe_isvsvn = svns
        level: IsvLevel | None = None
        qe_shortfalls: tuple[Shortfall, ...] = ()
        if identity.value is not None:
            level = identity.value.level(qe_isvsvn)
            qe_shortfalls = tuple(
                isv_shortfalls(
                    "quoting enclave", Update.QUOTING_ENCLAVE, identity.value.levels, qe_isvsvn, level
                )
            )
        evaluation, problem = None, info.problem or extension.problem
        if info.value is not None and extension.value is not None:
            if _subject(info.value) == (TDX if is_td else SGX, extension.value.fmspc, extension.value.pce_id):
                evaluation = evaluate(info.value, extension.value, level, launch, current)
            else:
                problem = _OTHER_PLATFORM
        return cls(evaluation, problem, level, identity.problem, qe_shortfalls)


def check_platform(info: Loaded[TcbInfo], extension: Loaded[SgxExtension], body: QuoteBody) -> Check:
    """tcb_info.fmspc: the TCB info is about this technology (SGX or TDX), FMSPC and PCE-ID."""
    if info.value is None or extension.value is None:
        return unknown("tcb_info.fmspc", info.problem or extension.problem)
    technology = SGX if isinstance(body, SgxReportBody) else TDX
    expected = _platform(technology, extension.value.fmspc, extension.value.pce_id)
    found = _platform(*_subject(info.value))
    return judged("tcb_info.fmspc", expected == found, expected, found, _OTHER_PLATFORM)


def check_module(info: Loaded[TcbInfo], body: QuoteBody) -> Check:
    """tcb.module: the TDX module's signer and attributes are those of TCB info, the attributes zero."""
    if isinstance(body, SgxReportBody):
        return not_applicable("tcb.module", "an SGX quote")
    if info.value is None:
        return unknown("tcb.module", info.problem)
    if info.value.module is None:
        return unknown("tcb.module", f"the TCB info is about {info.value.id}")
    name = module_name(body.tee_tcb_svn)
    module = find_module(info.value, body.tee_tcb_svn)
    if module is None:
        known = ", ".join(identity.id for identity in info.value.module_identities) or "none"
        return fail("tcb.module", f"one of: {known}", name, "the TCB info does not know the TDX module")
    attributes = body.seam_attributes.to_bytes(8, "little")
    good = body.mrsignerseam == module.mrsigner and attributes == module.attributes == bytes(8)
    expected = f"{name}, MRSIGNERSEAM {module.mrsigner.hex()}, attributes {module.attributes.hex()}"
    found = f"{name}, MRSIGNERSEAM {body.mrsignerseam.hex()}, attributes {attributes.hex()}"
    return judged(
        "tcb.module", good, expected, found, "the TDX module is another one; its attributes must be zero"
    )


def check_status(tcb: Tcb, terms: Terms) -> Check:
    """tcb.status: the platform's status is acceptable, without what only the quoting enclave spoils."""
    evaluation = tcb.evaluation
    if evaluation is None:
        return unknown("tcb.status", tcb.problem)
    whole = not tcb.qe_problem and _acceptable(evaluation.status, evaluation, terms)
    good = whole or _acceptable(evaluation.without_qe, evaluation, terms)
    found = evaluation.without_qe.value
    if evaluation.date is not None:
        found += f", TCB of {stamp(evaluation.date)}"
    reasons = [_ADVICE[evaluation.without_qe]] if evaluation.without_qe in _ADVICE else []
    reasons += described(evaluation.shortfalls)
    reasons += _advisories(evaluation.advisories)
    return judged("tcb.status", good, _accepted(terms), found, "; ".join(reasons))


def check_qe_status(tcb: Tcb, terms: Terms) -> Check:
    """qe.status: the quoting enclave's ISVSVN does not spoil the platform's status."""
    if tcb.qe_problem:
        return unknown("qe.status", tcb.qe_problem)
    status = tcb.qe_level.status if tcb.qe_level else TcbStatus.NOT_SUPPORTED
    alone = converge(TcbStatus.UP_TO_DATE, [status]) in terms.policy.accepted_tcb_statuses
    evaluation = tcb.evaluation
    if evaluation is None:
        good = alone
    else:
        good = _acceptable(evaluation.status, evaluation, terms) or (
            alone and not _acceptable(evaluation.without_qe, evaluation, terms)
        )
    reasons = [] if tcb.qe_level else ["no level of the QE identity matches"]
    reasons += described(tcb.qe_shortfalls)
    reasons += _advisories(tcb.qe_level.advisories if tcb.qe_level else ())
    return judged("qe.status", good, _accepted(terms), status.value, "; ".join(reasons))


def check_qe_identity(identity: Loaded[QeIdentity], report: SgxReportBody, body: QuoteBody) -> Check:
    """qe.identity: the enclave that signed is the one that the identity describes, and nobody debugs it."""
    value = identity.value
    if value is None:
        return unknown("qe.identity", identity.problem)
    mask = int.from_bytes(value.attributes_mask, "little")
    attributes = int.from_bytes(report.attributes, "little") & mask
    wanted = {
        "id": (QE if isinstance(body, SgxReportBody) else TD_QE, value.id),
        "MRSIGNER": (value.mrsigner.hex(), report.mrsigner.hex()),
        "ISVPRODID": (str(value.isv_prod_id), str(report.isv_prod_id)),
        "MISCSELECT": (f"{value.miscselect:08x}", f"{report.miscselect & value.miscselect_mask:08x}"),
        "ATTRIBUTES": (value.attributes.hex(), attributes.to_bytes(16, "little").hex()),
        "DEBUG": ("off", "on" if report.flags & SGX_FLAG_DEBUG else "off"),
    }
    wrong = [name for name, (expected, found) in wanted.items() if expected != found]
    shown = wrong or list(wanted)
    return judged(
        "qe.identity",
        not wrong,
        ", ".join(f"{name} {wanted[name][0]}" for name in shown),
        ", ".join(f"{name} {wanted[name][1]}" for name in shown),
        "the quoting enclave is not the one that the identity describes",
    )


def _acceptable(status: TcbStatus, evaluation: Evaluation, terms: Terms) -> bool:
    policy = terms.policy
    if status not in policy.accepted_tcb_statuses:
        return False
    bounded = policy.platform_grace is not None and status in (
        TcbStatus.OUT_OF_DATE,
        TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    )
    if not bounded or evaluation.date is None or policy.platform_grace is None:
        return True
    return terms.time - evaluation.date <= policy.platform_grace


def _advisories(advisories: tuple[str, ...]) -> list[str]:
    return [f"subject to {', '.join(advisories)}"] if advisories else []


def _accepted(terms: Terms) -> str:
    return ", ".join(sorted(terms.policy.accepted_tcb_statuses)) or "nothing"


def _subject(info: TcbInfo) -> tuple[str, bytes, bytes]:
    """What the TCB info is about. The SVNs of any other kind of platform count something else."""
    return info.id, info.fmspc, info.pce_id


def _platform(technology: str, fmspc: bytes, pce_id: bytes) -> str:
    return f"{technology}, FMSPC {fmspc.hex()}, PCE-ID {pce_id.hex()}"
