"""What can be said of a quote by itself: its format, its two signatures, and whether it is emulated."""

from __future__ import annotations

import hashlib

from tdxstack.abi.quote import (
    CERTIFICATION_NAMES,
    CERTIFICATION_PCK_CHAIN,
    CERTIFICATION_PCK_LEAF,
    CERTIFICATION_PPID_PLAIN,
    INTEL_QE_VENDOR_ID,
    Quote,
)
from tdxstack.errors import MalformedError
from tdxstack.verification.inputs import Terms
from tdxstack.verification.pck import ANCHOR_MARKED, ROOT_MARKED, Pck
from tdxstack.verification.policy import Policy
from tdxstack.verification.result import Check, Status, fail, judged, not_applicable, ok, unknown
from tdxstack.verification.signatures import PublicKey, der_signature

_HELD = "the quote holds the PCK certificate"


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
        return Check("quote.format", Status.WARNING, detail=detail)
    return ok("quote.format", expected, found)


def check_certification(quote: Quote, found: Pck) -> Check:
    """quote.certification: what a quote without its PCK certificate says of it is true of the one at hand.

    Plain PPID, CPUSVN, PCESVN and PCE-ID are compared. An encrypted PPID says nothing to a relying party.
    """
    certification = quote.signature.certification
    try:
        named = certification.platform
    except MalformedError as error:
        return fail("quote.certification", "PPID, CPUSVN, PCESVN, PCE-ID", "none", error.message)
    if certification.type in (CERTIFICATION_PCK_LEAF, CERTIFICATION_PCK_CHAIN):
        return ok("quote.certification", _HELD, _HELD)
    if named is None:
        return not_applicable("quote.certification", "the quote says nothing of a PCK certificate")
    extension = found.extension.value
    if extension is None:
        return unknown("quote.certification", found.extension.problem)
    facts = {
        "CPUSVN": (extension.cpusvn.hex(), named.cpusvn.hex()),
        "PCESVN": (str(extension.pcesvn), str(named.pce_svn)),
    }
    if certification.type == CERTIFICATION_PPID_PLAIN:
        facts["PPID"] = (extension.ppid.hex(), named.ppid.hex())
    if named.pce_id is not None:
        facts["PCE-ID"] = (extension.pce_id.hex(), named.pce_id.to_bytes(2, "little").hex())
    return judged(
        "quote.certification",
        all(certified == said for certified, said in facts.values()),
        ", ".join(f"{name} {certified}" for name, (certified, _) in facts.items()),
        ", ".join(f"{name} {said}" for name, (_, said) in facts.items()),
        "the PCK certificate is another one than the quote names",
    )


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


def check_emulated(found: Pck, policy: Policy) -> Check:
    """emulated.allowed: the evidence is not emulated, or is allowed to be and its root does not hide it."""
    chain, signs = found.chain.value, found.emulation
    if not signs:
        if chain is None:
            return unknown("emulated.allowed", found.chain.problem)
        return not_applicable("emulated.allowed", "not emulated")
    text = "emulated: " + ", ".join(signs)
    if not policy.allow_emulated:
        detail = "emulated TDX protects nothing; it must be allowed by name"
        return fail("emulated.allowed", "evidence from hardware", text, detail)
    if found.anchor is not None and not (ROOT_MARKED in signs and ANCHOR_MARKED in signs):
        detail = "an emulated platform under a root that is not marked"
        return fail("emulated.allowed", "an emulated root that is marked", text, detail)
    return ok("emulated.allowed", "evidence from hardware or emulated", text)
