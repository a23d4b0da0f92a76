"""Verification of one quote: every check, what the platform is, and the verdict."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from tdxstack.abi.quote import (
    CERTIFICATION_NAMES,
    CERTIFICATION_PCK_CHAIN,
    CERTIFICATION_PPID_PLAIN,
    INTEL_QE_VENDOR_ID,
    Quote,
)
from tdxstack.errors import MalformedError, UsageError
from tdxstack.verification import pck, result, signed_documents, tcb, td
from tdxstack.verification.certificates import INTEL_SGX_ROOT_CA, TrustAnchor
from tdxstack.verification.chains import stamp
from tdxstack.verification.emulated import is_emulated_fmspc
from tdxstack.verification.evaluation import Shortfall
from tdxstack.verification.inputs import ParsedCollateral, Terms
from tdxstack.verification.pck import Pck
from tdxstack.verification.policy import Policy
from tdxstack.verification.result import Check, Status, fail, judged, not_applicable, ok, unknown
from tdxstack.verification.sgx_extension import SgxExtension
from tdxstack.verification.signatures import PublicKey, SignatureMemory, der_signature
from tdxstack.verification.tcb import Tcb
from tdxstack.verification.tcb_info import TcbStatus

QUOTE_CHECKS: Final = (
    "quote.format",
    "quote.signature",
    "quote.qe_report_signature",
    "quote.qe_report_binding",
    "pck.chain",
    "pck.trust_anchor",
    "pck.validity",
    "pck.revocation",
    "crl.root",
    "crl.pck",
    "tcb_info.signature",
    "tcb_info.freshness",
    "tcb_info.fmspc",
    "tcb.module",
    "tcb.status",
    "qe_identity.signature",
    "qe_identity.freshness",
    "qe.identity",
    "qe.status",
    "td.debug",
    "td.attributes",
    "emulated.allowed",
)
"""The ids of the checks in every result of `verify_quote`, in this order; `td.expected.*` may follow."""


@dataclass(frozen=True, slots=True)
class TcbOutcome:
    """How good the platform is. `advisories` are sorted; `current_status` is there for TDX 1.5 only."""

    status: TcbStatus
    date: datetime | None
    advisories: tuple[str, ...]
    shortfalls: tuple[Shortfall, ...]
    evaluation_number: int
    current_status: TcbStatus | None

    def to_json(self) -> dict[str, Any]:
        """Intel's names, the date in ISO 8601, shortfalls with their parts."""
        return {
            "status": self.status.value,
            "date": stamp(self.date) if self.date else None,
            "advisory_ids": list(self.advisories),
            "evaluation_number": self.evaluation_number,
            "current_status": self.current_status.value if self.current_status else None,
            "shortfalls": [
                {"part": item.part, "have": item.have, "need": item.need, "detail": item.detail}
                for item in self.shortfalls
            ],
        }


@dataclass(frozen=True, slots=True)
class QuoteResult:
    """The outcome of `verify_quote`: every check, and what could be learnt of TCB and PCK certificate."""

    quote: Quote
    checks: tuple[Check, ...]
    tcb: TcbOutcome | None
    pck: SgxExtension | None
    pck_ca: str
    emulated: bool

    @property
    def verdict(self) -> str:
        """`accepted` or `rejected`."""
        return result.verdict(self.checks)

    @property
    def accepted(self) -> bool:
        """Whether every check passed or does not apply."""
        return self.verdict == result.ACCEPTED

    def failures(self) -> list[Check]:
        """The checks that forbid acceptance."""
        return [check for check in self.checks if check.status in (Status.FAIL, Status.UNKNOWN)]

    def to_json(self) -> dict[str, Any]:
        """verdict, emulated, tcb_status, advisory_ids, tcb, pck, checks."""
        return {
            "verdict": self.verdict,
            "emulated": self.emulated,
            "tcb_status": self.tcb.status.value if self.tcb else None,
            "advisory_ids": list(self.tcb.advisories) if self.tcb else [],
            "tcb": self.tcb.to_json() if self.tcb else None,
            "pck": _pck_json(self.pck, self.pck_ca) if self.pck else None,
            "checks": [check.to_json() for check in self.checks],
        }


def verify_quote(
    quote: Quote,
    collateral: ParsedCollateral,
    *,
    time: datetime,
    anchors: Sequence[TrustAnchor] = (INTEL_SGX_ROOT_CA,),
    policy: Policy | None = None,
    pck_chain: bytes | None = None,
    memory: SignatureMemory | None = None,
) -> QuoteResult:
    """Verify `quote` as of `time` (with a time zone) under `policy` (default: strict), trusting `anchors`.

    `pck_chain` (PEM) replaces the PCK chain of the quote; quotes with certification data 1, 2, 3 have none.
    One `memory` for many quotes saves verifying what they share again and again.
    Bad evidence gives failed checks, never an exception. Raises `UsageError` for no anchor or a naive time.
    """
    if time.tzinfo is None or not anchors:
        raise UsageError(
            f"verification as of {time} with {len(anchors)} trust anchors",
            hint="give a time with a time zone and at least one trust anchor",
        )
    terms = Terms(time, tuple(anchors), policy or Policy(), memory or SignatureMemory())
    found = Pck.of(quote.signature.certification, collateral, terms, pck_chain)
    platform = Tcb.of(
        collateral.tcb_info, collateral.qe_identity, found.extension, quote.body, quote.signature.qe_report
    )
    emulated, emulated_check = _check_emulated(found, terms)
    checks = (
        check_format(quote),
        check_signature(quote),
        check_qe_report_signature(quote, found, terms),
        check_qe_report_binding(quote),
        *_certificate_checks(found, collateral, terms),
        *_tcb_checks(quote, found, platform, collateral, terms),
        td.check_debug(quote.body, terms.policy),
        td.check_attributes(quote.body, terms.policy),
        emulated_check,
        *td.check_expected(quote.body, terms.policy),
    )
    return QuoteResult(
        quote, checks, _outcome(platform, collateral), found.extension.value, found.ca, emulated
    )


def _certificate_checks(found: Pck, collateral: ParsedCollateral, terms: Terms) -> tuple[Check, ...]:
    return (
        pck.check_chain(found, terms),
        pck.check_anchor(found, terms),
        pck.check_validity(found, terms),
        pck.check_revocation(found, collateral),
        pck.check_root_crl(found, collateral, terms),
        pck.check_pck_crl(found, collateral, terms),
    )


def _tcb_checks(
    quote: Quote, found: Pck, platform: Tcb, collateral: ParsedCollateral, terms: Terms
) -> tuple[Check, ...]:
    info, identity, crl = collateral.tcb_info, collateral.qe_identity, collateral.root_ca_crl
    # Collateral must come from the root that certified the platform, as far as that one is known.
    return (
        signed_documents.check_signature(
            "tcb_info.signature",
            collateral.tcb_info_document,
            collateral.tcb_info_chain,
            crl,
            found.anchor,
            terms,
        ),
        signed_documents.check_freshness("tcb_info.freshness", info, terms),
        tcb.check_platform(info, found.extension, quote.body),
        tcb.check_module(info, quote.body),
        tcb.check_status(platform, terms),
        signed_documents.check_signature(
            "qe_identity.signature",
            collateral.qe_identity_document,
            collateral.qe_identity_chain,
            crl,
            found.anchor,
            terms,
        ),
        signed_documents.check_freshness("qe_identity.freshness", identity, terms),
        tcb.check_qe_identity(identity, quote.signature.qe_report, quote.body),
        tcb.check_qe_status(platform, terms),
    )


def check_format(quote: Quote) -> Check:
    """quote.format: Intel's quoting enclave vendor, usable certification data; odd padding is told."""
    certification = quote.signature.certification.type
    name = CERTIFICATION_NAMES.get(certification, "unknown")
    vendor = quote.header.qe_vendor_id
    found = f"vendor {vendor.hex()}, certification data {certification} ({name})"
    expected = f"vendor {INTEL_QE_VENDOR_ID.hex()}, certification data 1 to 5"
    problems = []
    if vendor != INTEL_QE_VENDOR_ID:
        problems.append("another vendor's quoting enclave")
    if not CERTIFICATION_PPID_PLAIN <= certification <= CERTIFICATION_PCK_CHAIN:
        problems.append("certification data of a kind that does not certify a quote")
    if problems:
        return fail("quote.format", expected, found, "; ".join(problems))
    if any(quote.trailing):
        detail = f"{len(quote.trailing)} bytes that are not all zero follow the quote; they mean nothing"
        return Check("quote.format", Status.WARNING, expected, found, detail)
    return ok("quote.format", expected, found)


def check_signature(quote: Quote) -> Check:
    """quote.signature: the attestation key signs header and body."""
    expected = "a signature by the attestation key over header and body"
    point = quote.signature.attestation_key
    try:
        key = PublicKey.of_point(point, "attestation key")
    except MalformedError as error:
        return fail("quote.signature", expected, f"attestation key {point.hex()}", error.message)
    good = key.signed(der_signature(quote.signature.signature), quote.signed_bytes)
    found = "valid" if good else "invalid"
    return judged("quote.signature", good, expected, found, "the quote was changed after it was signed")


def check_qe_report_signature(quote: Quote, found: Pck, terms: Terms) -> Check:
    """quote.qe_report_signature: the PCK key signs the quoting enclave's report."""
    if found.chain.value is None:
        return unknown("quote.qe_report_signature", found.chain.problem)
    signature = der_signature(quote.signature.qe_report_signature)
    good = terms.memory.signed(found.chain.value[0].key, signature, quote.signature.qe_report.to_bytes())
    return judged(
        "quote.qe_report_signature",
        good,
        "a signature by the PCK key over the QE report",
        "valid" if good else "invalid",
        "the QE report is not from the platform of the PCK certificate",
    )


def check_qe_report_binding(quote: Quote) -> Check:
    """quote.qe_report_binding: the QE reports SHA-256(attestation key, authentication data) and zeros."""
    signature = quote.signature
    digest = hashlib.sha256(signature.attestation_key + signature.qe_auth_data).digest()
    expected, reported = digest.ljust(64, b"\0"), signature.qe_report.report_data
    return judged(
        "quote.qe_report_binding",
        expected == reported,
        expected.hex(),
        reported.hex(),
        "the quoting enclave does not vouch for the attestation key",
    )


def _check_emulated(found: Pck, terms: Terms) -> tuple[bool, Check]:
    """emulated.allowed, and whether the evidence is emulated: by root, by anchor or by FMSPC."""
    chain, extension = found.chain.value, found.extension.value
    marked = chain is not None and any(certificate.is_emulated for certificate in chain)
    anchored = found.anchor is not None and found.anchor.emulated
    reserved = extension is not None and is_emulated_fmspc(extension.fmspc)
    signs = {
        "its root is marked": marked,
        "its anchor is marked": anchored,
        "its FMSPC is reserved": reserved,
    }
    present = [sign for sign, shown in signs.items() if shown]
    if not present:
        if chain is None:
            return False, unknown("emulated.allowed", found.chain.problem)
        return False, not_applicable("emulated.allowed", "not emulated")
    text = "emulated: " + ", ".join(present)
    if not terms.policy.allow_emulated:
        detail = "emulated TDX protects nothing; it must be allowed by name"
        return True, fail("emulated.allowed", "evidence from hardware", text, detail)
    if found.anchor is not None and not (marked and anchored):
        detail = "an emulated platform under a root that is not marked"
        return True, fail("emulated.allowed", "an emulated root that is marked", text, detail)
    return True, ok("emulated.allowed", "evidence from hardware or emulated", text)


def _outcome(platform: Tcb, collateral: ParsedCollateral) -> TcbOutcome | None:
    evaluation, info = platform.evaluation, collateral.tcb_info.value
    if evaluation is None or info is None or platform.qe_problem:
        return None
    return TcbOutcome(
        status=evaluation.status,
        date=evaluation.date,
        advisories=evaluation.advisories,
        shortfalls=evaluation.shortfalls,
        evaluation_number=info.evaluation_number,
        current_status=evaluation.current_status,
    )


def _pck_json(extension: SgxExtension, ca: str) -> dict[str, Any]:
    instance = extension.platform_instance_id
    return {
        "fmspc": extension.fmspc.hex(),
        "pce_id": extension.pce_id.hex(),
        "cpusvn": extension.cpusvn.hex(),
        "components": list(extension.components),
        "pcesvn": extension.pcesvn,
        "ppid": extension.ppid.hex(),
        "sgx_type": extension.sgx_type_name,
        "platform_instance_id": instance.hex() if instance else None,
        "ca": ca,
    }
