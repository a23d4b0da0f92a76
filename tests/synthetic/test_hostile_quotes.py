"""Quotes that should not be believed, and odd ones that may be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tdxstack.abi.quote import CertificationData, Quote, QuoteSignature, TdBody10, TdBody15
from tdxstack.abi.sgx_report import SgxReportBody
from tdxstack.errors import MalformedError
from tdxstack.quoting.authority import raw_signature
from tdxstack.verification.result import Status
from tests.synthetic.evidence import Workshop

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of the group of points on P-256."""


def signature_with(quote: Quote, **changes: Any) -> Quote:
    """The quote with other fields in its signature section."""
    return replace(quote, signature=replace(quote.signature, **changes))


def halves(signature: bytes) -> tuple[int, int]:
    """r and s."""
    return int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")


def raw(r: int, s: int) -> bytes:
    """64 bytes of r and s."""
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


# Signatures.


@pytest.mark.parametrize("name", ["signature", "qe_report_signature"])
def test_no_signature_is_taken_for_everything(shop: Workshop, name: str) -> None:
    """Zero, the group's order and what lies beyond it: the classic ways to a signature that always fits."""
    quote = shop.quote()
    r, s = halves(getattr(quote.signature, name))
    for forged in ((0, 0), (0, s), (r, 0), (1, 1), (ORDER, s), (r, ORDER), (r, (1 << 256) - 1), (s, r)):
        changed = signature_with(quote, **{name: raw(*forged)})
        assert shop.evidence(changed).failing() == [f"quote.{name}"]


@pytest.mark.parametrize("name", ["signature", "qe_report_signature"])
def test_the_other_solution_is_a_signature_too(shop: Workshop, name: str) -> None:
    """ECDSA has two for each message: a quote's bytes do not identify it, but what it says is the same."""
    quote = shop.quote()
    r, s = halves(getattr(quote.signature, name))
    twin = signature_with(quote, **{name: raw(r, ORDER - s)})
    assert twin.to_bytes() != quote.to_bytes()
    assert twin.signed_bytes == quote.signed_bytes
    assert shop.evidence(twin).failing() == []


@pytest.mark.parametrize("point", [bytes(64), b"\xff" * 64, bytes(63) + b"\1"])
def test_attestation_keys_lie_on_the_curve(shop: Workshop, point: bytes) -> None:
    quote = signature_with(shop.quote(), attestation_key=point)
    assert "quote.signature" in shop.evidence(quote).failing()


def test_only_the_quoting_enclave_vouches_for_the_attestation_key(
    shop: Workshop, other_shop: Workshop
) -> None:
    """Parts of genuine quotes do not make another genuine quote."""
    mine, theirs = shop.quote(), other_shop.quote()
    again = shop.quote(shop.body(report_data=b"x" * 64))
    assert shop.evidence(replace(mine, body=again.body)).failing() == ["quote.signature"]
    assert shop.evidence(replace(mine, signature=again.signature)).failing() == ["quote.signature"]
    for names, failing in (
        (["attestation_key"], ["quote.signature", "quote.qe_report_binding"]),
        (["attestation_key", "signature"], ["quote.qe_report_binding"]),
        (["qe_report", "qe_report_signature"], ["quote.qe_report_signature", "quote.qe_report_binding"]),
    ):
        mixed = {name: getattr(theirs.signature, name) for name in names}
        found = shop.evidence(signature_with(mine, **mixed)).failing()
        assert set(failing) <= set(found)


def test_the_whole_report_data_of_the_quoting_enclave_counts(shop: Workshop) -> None:
    quote = shop.quote()
    for offset in (0, 31, 32, 63):
        data = bytearray(quote.signature.qe_report.report_data)
        data[offset] ^= 1
        report = replace(quote.signature.qe_report, report_data=bytes(data))
        changed = signature_with(
            quote, qe_report=report, qe_report_signature=raw_signature(shop.pck_key, report.to_bytes())
        )
        assert shop.evidence(changed).failing() == ["quote.qe_report_binding"]


def test_the_boundary_of_key_and_authentication_data_cannot_move(shop: Workshop) -> None:
    """The hash is over both, one after the other; the key's size is fixed, so nothing can wander over."""
    quote = shop.quote(auth_data=b"")
    assert shop.evidence(quote).failing() == []
    key = quote.signature.attestation_key
    moved = signature_with(quote, attestation_key=key[:63] + b"\0", qe_auth_data=key[63:])
    assert "quote.qe_report_binding" in shop.evidence(moved).failing()


# What the signature does not cover.


def test_bytes_after_the_quote_mean_nothing(shop: Workshop) -> None:
    quote = shop.quote()
    padded = shop.evidence(replace(quote, trailing=bytes(3000))).verify()
    assert padded.accepted
    assert [check for check in padded.checks if check.status is Status.WARNING] == []
    for trailing in (b"x", bytes(10) + b"x", shop.quote(shop.body(mrtd=bytes(48))).to_bytes()):
        result = shop.evidence(replace(quote, trailing=trailing)).verify()
        assert result.accepted
        assert [check.id for check in result.checks if check.status is Status.WARNING] == ["quote.format"]
        body = result.quote.body
        assert isinstance(body, TdBody10)
        assert body.mrtd != bytes(48)


@pytest.mark.parametrize("changes", [{"user_data": b"x" * 20}, {"reserved": b"\1\0\0\0"}])
def test_header_fields_are_signed(shop: Workshop, changes: dict[str, Any]) -> None:
    quote = shop.quote()
    changed = replace(quote, header=replace(quote.header, **changes))
    assert shop.evidence(changed).failing() == ["quote.signature"]
    assert shop.evidence(shop.quote(header=changes)).failing() == []


@pytest.mark.parametrize(
    "header",
    [
        {"version": 2},
        {"version": 6},
        {"attestation_key_type": 3},
        {"attestation_key_type": 0},
        {"tee_type": 1},
    ],
)
def test_other_headers_are_malformed_however_well_signed(shop: Workshop, header: dict[str, Any]) -> None:
    quote = shop.quote(header=header)
    with pytest.raises(MalformedError):
        Quote.parse(quote.to_bytes())


def test_another_vendors_quoting_enclave_is_refused(shop: Workshop) -> None:
    assert shop.evidence(shop.quote(header={"qe_vendor_id": bytes(16)})).failing() == ["quote.format"]


def test_an_enclaves_report_is_no_tds(shop: Workshop) -> None:
    """The same bytes under the other TEE type: neither parses as the other, in any version."""
    enclave = shop.quote(SgxReportBody(), version=4)
    as_td = bytearray(enclave.to_bytes())
    as_td[4] = 0x81
    with pytest.raises(MalformedError):
        Quote.parse(bytes(as_td))
    td = bytearray(shop.quote().to_bytes())
    td[4] = 0
    with pytest.raises(MalformedError):
        Quote.parse(bytes(td))
    assert "tcb_info.fmspc" in shop.evidence(enclave).failing()
    assert "qe.identity" in shop.evidence(enclave).failing()


def test_a_body_cannot_change_its_type(shop: Workshop) -> None:
    """The type of a version 5 body is signed: cutting TEE_TCB_SVN2 off does not make a TD report 1.0."""
    quote = shop.quote(shop.body(TdBody15, tee_tcb_svn2=bytes(16)))
    body = quote.body
    assert isinstance(body, TdBody15)
    short = TdBody10.parse(body.to_bytes()[: TdBody10.SIZE])
    assert shop.evidence(replace(quote, body=short)).failing() == ["quote.signature"]
    version_4 = replace(quote, body=short, header=replace(quote.header, version=4))
    assert shop.evidence(version_4).failing() == ["quote.signature"]


def test_sizes_that_do_not_add_up_are_malformed(shop: Workshop) -> None:
    quote = shop.quote()
    section = quote.signature.to_bytes(4)
    for wrong in (section + b"\0", section[:-1], section[:128], section[:577], b""):
        data = quote.signed_bytes + len(wrong).to_bytes(4, "little") + wrong
        with pytest.raises(MalformedError):
            Quote.parse(data)
    for size in (0, len(section) - 1, len(section) + 1, 0x7FFFFFFF, 0xFFFFFFFF):
        data = quote.signed_bytes + size.to_bytes(4, "little") + section
        with pytest.raises(MalformedError):
            Quote.parse(data)
    assert QuoteSignature.parse(section, 4) == quote.signature


# Claims that nothing vouches for.


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_claims_of_the_certification_data_certify_nothing(shop: Workshop, kind: int) -> None:
    """PPID, CPUSVN, PCESVN and PCE-ID in the quote tell which certificate to look for; what they claim of the
    platform does not count, and a certificate that says otherwise is not the one that the quote names."""
    claim = b"\xff" * ({1: 16, 2: 256, 3: 384}[kind] + 16) + b"\xff\xff" + b"\x01\x00"
    quote = shop.quote(certification=CertificationData(kind, claim))
    assert "pck.chain" in shop.evidence(quote).failing()
    evidence = shop.evidence(quote, pck_chain=shop.pck_chain())
    assert evidence.failing() == ["quote.certification"]
    result = evidence.verify()
    assert result.pck is not None
    assert (result.pck.pce_id, result.pck.cpusvn) == (shop.platform.pce_id, shop.platform.cpusvn)


@pytest.mark.parametrize("attribute", [0, *range(1, 8)])
def test_attributes_that_open_a_td_are_refused(shop: Workshop, attribute: int) -> None:
    quote = shop.quote(shop.body(td_attributes=1 << 28 | 1 << attribute))
    assert shop.evidence(quote).failing() == ["td.debug" if attribute == 0 else "td.attributes"]


@pytest.mark.parametrize("changes", [{"seam_attributes": 1}, {"mrsignerseam": b"\1" * 48}])
def test_other_modules_are_refused(shop: Workshop, changes: dict[str, Any]) -> None:
    assert shop.evidence(shop.quote(shop.body(**changes))).failing() == ["tcb.module"]


def test_a_module_that_tcb_info_does_not_know_is_refused(shop: Workshop) -> None:
    for major in (2, 4, 255):
        svn = bytes((255, major)) + b"\xff" * 14
        failing = shop.evidence(shop.quote(shop.body(tee_tcb_svn=svn))).failing()
        assert failing == ["tcb.module", "tcb.status"]


def test_an_enclave_in_debug_mode_is_refused(shop: Workshop) -> None:
    enclave = shop.quote(SgxReportBody(flags=2))
    assert "td.debug" in shop.evidence(enclave).failing()
