"""The AR4SI trustworthiness vector of a verification: its findings in terms that other verifiers share.

Source: draft-ietf-rats-ar4si, section 2.3 (claims, their values and tiers). docs/reference/token.md says
which finding gives which claim.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from tdxstack.abi.sgx_report import SGX_FLAG_DEBUG, SgxReportBody
from tdxstack.abi.tdreport import TD_UNTRUSTED_MASK
from tdxstack.verification.quote import QuoteResult
from tdxstack.verification.result import Check, Status
from tdxstack.verification.tcb_info import TcbStatus

UNKNOWN_ELEMENTS: Final = 1
APPROVED: Final = 2
"""instance-identity: recognised; hardware: genuine; runtime-opaque: encrypted and isolated."""

NO_KNOWN_VULNERABILITIES: Final = 3
APPROVED_BOOT: Final = 3
KNOWN_VULNERABILITIES: Final = 32
UNRECOGNIZED_EXECUTABLES: Final = 33
CONTRAINDICATED: Final = 96
UNRECOGNIZED: Final = 97
CRYPTO_FAILED: Final = 99

_SIGNATURES = ("quote.signature", "quote.qe_report_signature", "quote.qe_report_binding", "pck.chain")
_IDENTITY = (*_SIGNATURES, "pck.trust_anchor", "pck.validity", "pck.revocation", "crl.root", "crl.pck")
_COLLATERAL = (
    "tcb_info.signature",
    "tcb_info.freshness",
    "tcb_info.fmspc",
    "qe_identity.signature",
    "qe_identity.freshness",
)
_BOOT_REGISTERS = {"mrtd", "rtmr0", "rtmr1", "rtmr2"}
_REGISTERS = {*_BOOT_REGISTERS, "rtmr3", "mrenclave", "mrsigner"}
_NEEDS_CONFIGURATION = {
    TcbStatus.CONFIGURATION_NEEDED,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
    TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED,
}


class Tier(StrEnum):
    """The trustworthiness tiers, best last but for `none`, which says nothing."""

    NONE = "none"
    AFFIRMING = "affirming"
    WARNING = "warning"
    CONTRAINDICATED = "contraindicated"

    @classmethod
    def of(cls, value: int) -> Tier:
        """The tier of a claim's value, -128 to 127."""
        if -1 <= value <= 1:
            return cls.NONE
        if -32 <= value <= 31:
            return cls.AFFIRMING
        if -96 <= value <= 95:
            return cls.WARNING
        return cls.CONTRAINDICATED


def trust_vector(result: QuoteResult) -> dict[str, int]:
    """The claims that the checks of `result` give rise to; nothing is claimed of files, storage or sources.

    No claim about emulated evidence is an affirming one, except that its configuration and its executables
    are as they should be.
    """
    status = {check.id: check.status for check in result.checks}
    if any(status.get(check_id) is Status.FAIL for check_id in _SIGNATURES):
        return dict.fromkeys(
            ("instance-identity", "configuration", "hardware", "runtime-opaque"), CRYPTO_FAILED
        )
    vector = {
        "instance-identity": _instance_identity(result, status),
        "configuration": _configuration(result, status),
        "hardware": _hardware(result, status),
    }
    vector["runtime-opaque"] = _runtime_opaque(result, vector["hardware"])
    executables = _executables(result.checks)
    return vector | ({"executables": executables} if executables else {})


def overall(vector: dict[str, int], *, accepted: bool) -> Tier:
    """The worst tier in the vector; `contraindicated` for what was rejected."""
    order = (Tier.AFFIRMING, Tier.NONE, Tier.WARNING, Tier.CONTRAINDICATED)
    worst = max((Tier.of(value) for value in vector.values()), key=order.index, default=Tier.NONE)
    return worst if accepted else Tier.CONTRAINDICATED


def _instance_identity(result: QuoteResult, status: dict[str, Status]) -> int:
    if result.emulated or status["pck.revocation"] is Status.FAIL:
        return CONTRAINDICATED
    unknown_to_policy = Status.FAIL in (status.get("pck.fmspc"), status.get("pck.ca"))
    if status["pck.trust_anchor"] is Status.FAIL or unknown_to_policy:
        return UNRECOGNIZED
    return APPROVED if all(_good(status[check_id]) for check_id in _IDENTITY) else UNKNOWN_ELEMENTS


def _hardware(result: QuoteResult, status: dict[str, Status]) -> int:
    if result.emulated:
        return CONTRAINDICATED
    recognized = ("pck.trust_anchor", "tcb.module", "qe.identity")
    if any(status[check_id] is Status.FAIL for check_id in recognized):
        return UNRECOGNIZED
    if result.tcb is None or not all(_good(status[check_id]) for check_id in (*_IDENTITY, *_COLLATERAL)):
        return CONTRAINDICATED if status["pck.revocation"] is Status.FAIL else UNKNOWN_ELEMENTS
    if result.tcb.status is TcbStatus.NOT_SUPPORTED:
        return UNRECOGNIZED
    if result.tcb.status is TcbStatus.REVOKED or status.get("tcb.advisories") is Status.FAIL:
        return CONTRAINDICATED
    return APPROVED if result.tcb.status is TcbStatus.UP_TO_DATE else KNOWN_VULNERABILITIES


def _configuration(result: QuoteResult, status: dict[str, Status]) -> int:
    judged = [status.get(check_id) for check_id in ("td.debug", "td.attributes", "td.service_td")]
    if Status.FAIL in judged or _is_open(result):
        return CONTRAINDICATED
    needed = result.tcb is not None and result.tcb.status in _NEEDS_CONFIGURATION
    return KNOWN_VULNERABILITIES if needed or Status.WARNING in judged else NO_KNOWN_VULNERABILITIES


def _runtime_opaque(result: QuoteResult, hardware: int) -> int:
    if result.emulated or _is_open(result):
        return CONTRAINDICATED
    return APPROVED if hardware in (APPROVED, KNOWN_VULNERABILITIES) else UNKNOWN_ELEMENTS


def _executables(checks: tuple[Check, ...]) -> int:
    """Zero, which claims nothing, unless every register of the boot was compared with what it may be."""
    found = {check.id: check.status for check in checks}
    compared = {
        check_id.rpartition(".")[2]: status
        for check_id, status in found.items()
        if check_id.startswith(("td.expected.", "reference."))
    }
    others = [
        status
        for check_id, status in found.items()
        if check_id.endswith(".replay") or check_id == "mrtd.firmware"
    ]
    judged = [status for name, status in compared.items() if name in _REGISTERS]
    if not all(_good(status) for status in (*judged, *others)):
        return UNRECOGNIZED_EXECUTABLES
    return APPROVED_BOOT if compared.keys() >= _BOOT_REGISTERS or "mrenclave" in compared else 0


def _is_open(result: QuoteResult) -> bool:
    """Whether the host can look into the TD or enclave, whatever the policy says of it."""
    body = result.quote.body
    if isinstance(body, SgxReportBody):
        return bool(body.flags & SGX_FLAG_DEBUG)
    return bool(body.td_attributes & TD_UNTRUSTED_MASK)


def _good(status: Status) -> bool:
    return status not in (Status.FAIL, Status.UNKNOWN)
