"""The emulated quoting enclave: what it signs, what it refuses and with which code."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.abi.qgs import ErrorCode
from tdxstack.abi.quote import Quote, TdBody10, TdBody15
from tdxstack.abi.tdreport import TdReport
from tdxstack.quoting.enclave import QuotingEnclave, ReportRefusedError
from tdxstack.quoting.pki import Pki, open_pki

from .conftest import NOW, VALID_1_0, VALID_1_5, make_report, with_mac

NEWER_SVN = bytes.fromhex("0c010500000000000000000000000000")


def body_of(quote: Quote) -> TdBody10:
    assert isinstance(quote.body, TdBody10)
    return quote.body


def verify(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> None:
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))


# --- what is signed


def test_a_quote_says_what_the_report_says(pki: Pki, enclave: QuotingEnclave) -> None:
    report = make_report(pki, report_data=bytes(range(64)))
    quote = Quote.parse(enclave.quote(report.to_bytes()))
    assert quote.header.version == 4
    assert quote.header.user_data == enclave.qe_id + bytes(4)
    assert type(quote.body) is TdBody10
    body = quote.body
    assert (body.tee_tcb_svn, body.mrseam) == (pki.platform.tee_tcb_svn, pki.platform.mrseam)
    assert (body.mrsignerseam, body.seam_attributes) == (bytes(48), 0)
    assert (body.td_attributes, body.xfam, body.mrtd) == (1 << 28, 0xE7, b"m" * 48)
    assert body.rtmrs == report.td_info.rtmrs
    assert body.report_data == bytes(range(64))


def test_every_signature_and_binding_holds_when_checked_by_hand(pki: Pki, enclave: QuotingEnclave) -> None:
    data = enclave.quote(make_report(pki).to_bytes())
    quote = Quote.parse(data)
    signature = quote.signature
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\4" + signature.attestation_key)
    verify(key, signature.signature, data[: 48 + 584])
    report = signature.qe_report
    bound = hashlib.sha256(signature.attestation_key + signature.qe_auth_data).digest()
    assert report.report_data == bound + bytes(32)
    chain = x509.load_pem_x509_certificates(signature.certification.data)
    assert chain == [pki.pck, pki.platform_ca, pki.root]
    pck_key = chain[0].public_key()
    assert isinstance(pck_key, ec.EllipticCurvePublicKey)
    verify(pck_key, signature.qe_report_signature, report.to_bytes())
    assert (signature.certification.type, len(signature.qe_auth_data)) == (5, 32)
    assert quote.to_bytes() == data


def test_the_qe_report_fits_the_qe_identity(pki: Pki, enclave: QuotingEnclave) -> None:
    report = Quote.parse(enclave.quote(make_report(pki).to_bytes())).signature.qe_report
    platform = pki.platform
    assert (report.mrsigner, report.mrenclave) == (platform.qe_mrsigner, platform.qe_mrenclave)
    assert (report.isv_prod_id, report.isv_svn) == (platform.qe_isv_prod_id, platform.qe_isv_svn)
    assert report.attributes[0] == 0x11, "no debug enclave"


def test_each_instance_has_its_own_attestation_key_and_the_same_identity(
    pki: Pki, enclave: QuotingEnclave
) -> None:
    other = QuotingEnclave(pki)
    report = make_report(pki).to_bytes()
    one, two = Quote.parse(enclave.quote(report)), Quote.parse(other.quote(report))
    assert one.signature.attestation_key != two.signature.attestation_key
    assert one.header == two.header and one.body == two.body


# --- which version, as in Intel's `determine_quote_version`


def test_a_td_that_outlived_a_module_update_gets_version_5(pki: Pki, enclave: QuotingEnclave) -> None:
    quote = Quote.parse(enclave.quote(make_report(pki, tee_tcb_svn2=NEWER_SVN).to_bytes()))
    assert quote.header.version == 5
    assert isinstance(quote.body, TdBody15)
    assert quote.body.tee_tcb_svn == pki.platform.tee_tcb_svn
    assert quote.body.tee_tcb_svn2 == NEWER_SVN


@pytest.mark.parametrize("valid", [VALID_1_0, VALID_1_5])
def test_a_td_with_a_service_td_gets_version_5(pki: Pki, enclave: QuotingEnclave, valid: bytes) -> None:
    report = make_report(pki, version=1, servtd_hash=b"v" * 48, valid=valid)
    quote = Quote.parse(enclave.quote(report.to_bytes()))
    assert quote.header.version == 5
    assert isinstance(quote.body, TdBody15)
    assert quote.body.mrservicetd == b"v" * 48
    assert quote.body.tee_tcb_svn2 == pki.platform.tee_tcb_svn


def test_svn2_of_a_tdx_1_0_report_does_not_count(pki: Pki, enclave: QuotingEnclave) -> None:
    report = make_report(pki, valid=VALID_1_0, tee_tcb_svn2=NEWER_SVN)
    assert Quote.parse(enclave.quote(report.to_bytes())).header.version == 4


@pytest.mark.parametrize("valid", [VALID_1_0, VALID_1_5])
def test_version_5_can_be_asked_for(pki: Pki, valid: bytes) -> None:
    data = QuotingEnclave(pki, quote_version=5).quote(make_report(pki, valid=valid).to_bytes())
    quote = Quote.parse(data)
    assert quote.header.version == 5
    assert isinstance(quote.body, TdBody15)
    assert quote.body.tee_tcb_svn2 == pki.platform.tee_tcb_svn
    assert quote.body.mrservicetd == bytes(48)
    assert data[48:54] == b"\3\0" + (648).to_bytes(4, "little")


# --- what is refused


def refusal(enclave: QuotingEnclave, report: bytes) -> ReportRefusedError:
    with pytest.raises(ReportRefusedError) as caught:
        enclave.quote(report)
    assert caught.value.hint
    return caught.value


@given(size=st.integers(0, 3000).filter(lambda size: size != 1024))
def test_another_length_is_refused(enclave: QuotingEnclave, size: int) -> None:
    assert refusal(enclave, b"\x81" * size).code == ErrorCode.INVALID_SIZE


@pytest.mark.parametrize(
    ("at", "value", "code"),
    [
        (0, 0x00, ErrorCode.INVALID_TYPE),
        (0, 0x80, ErrorCode.INVALID_TYPE),
        (1, 0x01, ErrorCode.INVALID_TYPE),
        (3, 0x01, ErrorCode.INVALID_TYPE),
        (2, 0x02, ErrorCode.INVALID_VERSION),
        (2, 0x03, ErrorCode.INVALID_VERSION),
    ],
)
def test_another_type_subtype_or_version_is_refused_even_with_a_mac(
    pki: Pki, enclave: QuotingEnclave, at: int, value: int, code: ErrorCode
) -> None:
    data = bytearray(make_report(pki).to_bytes())
    data[at] = value
    data[224:256] = hmac.new(pki.report_mac_key, bytes(data[:224]), hashlib.sha256).digest()
    assert refusal(enclave, bytes(data)).code == code


@given(at=st.integers(4, 1023), bit=st.integers(0, 7))
def test_any_changed_bit_is_refused(pki: Pki, enclave: QuotingEnclave, at: int, bit: int) -> None:
    data = bytearray(make_report(pki).to_bytes())
    data[at] ^= 1 << bit
    assert refusal(enclave, bytes(data)).code == ErrorCode.INVALID_PARAMETER


def test_a_report_of_another_platform_is_refused(enclave: QuotingEnclave, tmp_path: Path) -> None:
    other = open_pki(tmp_path / "other", NOW)
    error = refusal(enclave, make_report(other).to_bytes())
    assert (error.code, "MAC" in error.message) == (ErrorCode.INVALID_PARAMETER, True)


CHANGES: list[tuple[str, Callable[[TdReport], TdReport]]] = [
    ("TEE_TCB_INFO", lambda report: replace(report, tcb_info=replace(report.tcb_info, mrseam=b"x" * 48))),
    ("TDINFO", lambda report: replace(report, td_info=replace(report.td_info, mrtd=b"x" * 48))),
    ("reserved", lambda report: replace(report, mac=replace(report.mac, reserved1=b"\1" * 12))),
    ("reserved", lambda report: replace(report, mac=replace(report.mac, reserved2=b"\1" * 32))),
    ("reserved", lambda report: replace(report, reserved=b"\1" * 17)),
]


@pytest.mark.parametrize(("named", "change"), CHANGES)
def test_a_maced_report_whose_parts_do_not_bind_is_refused(
    pki: Pki, enclave: QuotingEnclave, named: str, change: Callable[[TdReport], TdReport]
) -> None:
    error = refusal(enclave, with_mac(pki, change(make_report(pki))).to_bytes())
    assert named in error.message
    assert error.code == ErrorCode.INVALID_PARAMETER


def test_a_service_td_in_a_version_0_report_is_refused(pki: Pki, enclave: QuotingEnclave) -> None:
    assert "reserved" in refusal(enclave, make_report(pki, servtd_hash=b"v" * 48).to_bytes()).message


@pytest.mark.parametrize(
    "valid", ["0000000000000000", "ff00000000000000", "ff01010000000000", "ff01030000000001"]
)
def test_other_valid_bits_are_refused(pki: Pki, enclave: QuotingEnclave, valid: str) -> None:
    assert "VALID" in refusal(enclave, make_report(pki, valid=bytes.fromhex(valid)).to_bytes()).message
