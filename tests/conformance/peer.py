"""Two verifiers side by side, tdxstack and dcap-qvl, and the rules by which they may differ.

dcap-qvl (https://github.com/Phala-Network/dcap-qvl, MIT, in Rust) is an independent implementation of
Intel's algorithm. Where both can be right by their own lights, a rule says so, and who is the stricter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

import pytest

from tdxstack.abi.quote import (
    CERTIFICATION_PCK_LEAF,
    CERTIFICATION_QE_REPORT,
    Quote,
    QuoteBody,
    TdBody10,
    TdBody15,
)
from tdxstack.abi.tdreport import TD_ATTRIBUTE_MIGRATABLE, TD_ATTRIBUTE_NAMES
from tdxstack.abi.tdreport import TD_ATTRIBUTE_SEPT_VE_DISABLE as SEPT_VE_DISABLE
from tdxstack.errors import MalformedError
from tdxstack.verification.certificates import read_chain
from tdxstack.verification.inputs import ParsedCollateral
from tdxstack.verification.quote import Verifier
from tdxstack.verification.tcb_info import TcbStatus
from tests.conformance.mutations import CERTIFICATE_END, Case

dcap_qvl = pytest.importorskip("dcap_qvl")

Answer = tuple[str, tuple[str, ...]]
"""TCB status and sorted advisories."""


class Stricter(Enum):
    """Whose answer is the stricter one where a rule applies."""

    OURS = "ours"
    THEIRS = "theirs"


@dataclass(frozen=True)
class Rule:
    """A known difference: where `applies` is true, the stricter side may reject what the other takes."""

    id: str
    stricter: Stricter
    why: str
    applies: Callable[[Case], bool]


def answer(case: Case, verifier: Verifier) -> Answer | None:
    """What tdxstack answers: None for a rejection for any reason but the status."""
    try:
        quote = Quote.parse(case.quote)
    except MalformedError:
        return None
    result = verifier.verify(quote, case.collateral, time=case.time)
    failing = {check.id for check in result.failures()} - {"tcb.status", "qe.status"}
    if failing or result.tcb is None or result.tcb.status in _NEVER_ACCEPTED:
        return None
    return result.tcb.status.value, result.tcb.advisories


_NEVER_ACCEPTED = (TcbStatus.NOT_SUPPORTED, TcbStatus.REVOKED)


def theirs(case: Case, root: bytes | None = None) -> Answer | None:
    """What dcap-qvl answers under Intel's root, or under `root` (DER); None for a rejection."""
    time = int(case.time.timestamp())
    try:
        bundle = dcap_qvl.QuoteCollateralV3.from_json(case.collateral.to_dcap_qvl_json().decode())
        if root is None:
            report = dcap_qvl.verify(case.quote, bundle, time)
        else:
            report = dcap_qvl.verify_with_root_ca(case.quote, bundle, root, time)
    except (ValueError, MalformedError):
        return None
    return report.status, tuple(sorted(set(report.advisory_ids)))


def explain(case: Case, ours: Answer | None, peer: Answer | None) -> Rule | None:
    """The rule under which one of the two rejects what the other accepts, if there is one."""
    stricter = {(True, False): Stricter.OURS, (False, True): Stricter.THEIRS}.get(
        (ours is None, peer is None)
    )
    return next((rule for rule in RULES if rule.stricter is stricter and rule.applies(case)), None)


def _parsed(case: Case) -> Quote | None:
    try:
        return Quote.parse(case.quote)
    except MalformedError:
        return None


def _certificates(pem: bytes) -> list[bytes]:
    """The texts of the certificates in a chain, without line ends and what lies around them."""
    parts = pem.replace(b"\r", b"").rstrip(b"\0").split(CERTIFICATE_END.strip())[:-1]
    return [part[part.rfind(b"-----BEGIN") :].replace(b"\n", b"") for part in parts]


def _chain(case: Case) -> list[bytes]:
    """The certificates of the quote's PCK chain."""
    quote = _parsed(case)
    return _certificates(quote.signature.certification.data) if quote else []


def _root_of_quote(case: Case) -> bool:
    base, quote = _chain(case.base or case), _parsed(case)
    if quote is None or len(base) != 3:
        return False
    # What they read is there: the leaf first, and its issuer; what is wrong is the rest.
    kept = quote.signature.certification.data.replace(b"\r", b"").replace(b"\n", b"")
    return base[0] in kept and base[1] in kept and _chain(case) != base


def _root_of_collateral(case: Case) -> bool:
    base = case.base or case
    pairs = [
        (case.collateral.tcb_info_issuer_chain, base.collateral.tcb_info_issuer_chain),
        (case.collateral.qe_identity_issuer_chain, base.collateral.qe_identity_issuer_chain),
    ]
    return any(now != before and _certificates(now)[:1] for now, before in pairs)


def _sections(case: Case) -> tuple[int, int]:
    """The type of the certification data that holds the QE report, and the bytes that follow its contents."""
    header = int.from_bytes(case.quote[:2], "little")
    base = _parsed(case.base or case)
    assert base is not None
    at = len(base.signed_bytes)
    section = case.quote[at + 4 : at + 4 + int.from_bytes(case.quote[at : at + 4], "little")]
    kind, inner = 6, section[128:]
    if header >= 4:
        kind, inner = int.from_bytes(inner[:2], "little"), inner[6:]
    auth = int.from_bytes(inner[448:450], "little")
    certification = inner[450 + auth :]
    return kind, len(certification) - 6 - int.from_bytes(certification[2:6], "little")


def _crl_times(case: Case) -> list[tuple[datetime, datetime | None]]:
    parsed = ParsedCollateral.parse(case.collateral)
    return [(crl.start, crl.end) for crl in (parsed.root_ca_crl.value, parsed.pck_crl.value) if crl]


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _body(case: Case) -> QuoteBody | None:
    quote = _parsed(case)
    return quote.body if quote else None


def _type_4(case: Case) -> bool:
    quote = _parsed(case)
    return quote is not None and quote.signature.certification.type == CERTIFICATION_PCK_LEAF


def _attributes(case: Case) -> int | None:
    body = _body(case)
    return body.td_attributes if isinstance(body, TdBody10) else None


def _other_pce_id(case: Case) -> bool:
    info = ParsedCollateral.parse(case.collateral).tcb_info.value
    quote = _parsed(case)
    if info is None or quote is None:
        return False
    leaf = read_chain(quote.signature.certification.data)[0]
    return leaf.sgx_extension().pce_id != info.pce_id


RULES: tuple[Rule, ...] = (
    Rule(
        "quote-root",
        Stricter.OURS,
        "dcap-qvl looks for a way from the leaf to its own copy of Intel's root and reads nothing else."
        " Intel's library wants a chain of three whose root is the trusted one (PckCertVerifier.cpp).",
        _root_of_quote,
    ),
    Rule(
        "collateral-root",
        Stricter.OURS,
        "The same of the chains of TCB info and QE identity (TCBSigningChain.cpp).",
        _root_of_collateral,
    ),
    Rule(
        "outer-type",
        Stricter.OURS,
        "dcap-qvl does not look at the type of the outer certification data, which is 6 in versions 4 and 5"
        " (Intel TDX DCAP Quoting Library API, A.3.8).",
        lambda case: _sections(case)[0] != CERTIFICATION_QE_REPORT,
    ),
    Rule(
        "inner-sizes",
        Stricter.OURS,
        "dcap-qvl takes sizes in the signature section that leave bytes over. Intel's library refuses them"
        " (QuoteVerifier::verifyCertificationData).",
        lambda case: _sections(case)[1] != 0,
    ),
    Rule(
        "crl-issued-later",
        Stricter.OURS,
        "dcap-qvl takes revocation lists from the future; Intel's library does not (CrlStore::expired looks"
        " at both ends).",
        lambda case: any(case.time < start for start, _ in _crl_times(case)),
    ),
    Rule(
        "crl-last-second",
        Stricter.THEIRS,
        "The second of nextUpdate itself: too late for dcap-qvl, in time for Intel's library and for ours, as"
        " it is with TCB info and QE identity for all three.",
        lambda case: any(case.time == end for _, end in _crl_times(case)),
    ),
    Rule(
        "chain-order",
        Stricter.THEIRS,
        "We sort the certificates of a chain by their names, as Intel's library does (CertificateChain.cpp).",
        lambda case: (
            _chain(case) != sorted(_chain(case), key=_chain(case.base or case).index)
            if set(_chain(case)) <= set(_chain(case.base or case))
            else False
        ),
    ),
    Rule(
        "type-4",
        Stricter.THEIRS,
        "dcap-qvl takes the PCK certificate from certification data of type 5 alone; type 4 holds it as well"
        " (Intel TDX DCAP Quoting Library API, A.3.9).",
        _type_4,
    ),
    Rule(
        "crl-chain-text",
        Stricter.THEIRS,
        "dcap-qvl's form of collateral has no place for a chain that is not text. We read that of the PCK CRL"
        " where a quote comes without it; the list itself must be signed by the quote's own authority.",
        lambda case: not _is_text(case.collateral.pck_crl_issuer_chain),
    ),
    Rule(
        "sept-ve-disable",
        Stricter.THEIRS,
        "dcap-qvl demands SEPT_VE_DISABLE of every TD, Intel's library does not; our policy can.",
        lambda case: (attributes := _attributes(case)) is not None and not attributes & SEPT_VE_DISABLE,
    ),
    Rule(
        "service-td",
        Stricter.THEIRS,
        "dcap-qvl refuses TDs with a service TD by default, Intel's library does not; our policy can.",
        lambda case: isinstance(body := _body(case), TdBody15) and any(body.mrservicetd),
    ),
    Rule(
        "migratable",
        Stricter.THEIRS,
        "dcap-qvl refuses TDs that may migrate, Intel's library does not; our policy can.",
        lambda case: bool((_attributes(case) or 0) & TD_ATTRIBUTE_MIGRATABLE),
    ),
    Rule(
        "unknown-attributes",
        Stricter.THEIRS,
        "dcap-qvl refuses TD attributes without a name above the eight of debugging; Intel's library does not"
        " look at them, and we warn, for later TDX modules will name more.",
        lambda case: bool((_attributes(case) or 0) & ~sum(1 << bit for bit in TD_ATTRIBUTE_NAMES) & ~0xFF),
    ),
    Rule(
        "pce-id",
        Stricter.OURS,
        "dcap-qvl does not compare the PCE-IDs of PCK certificate and TCB info; Intel's library does"
        " (QuoteVerifier::verify, 4.1.2.5.11).",
        _other_pce_id,
    ),
    Rule(
        "qe-auth-size",
        Stricter.THEIRS,
        "dcap-qvl wants 32 bytes of QE authentication data; its size is free (A.3.7).",
        lambda case: (quote := _parsed(case)) is not None and len(quote.signature.qe_auth_data) != 32,
    ),
)
