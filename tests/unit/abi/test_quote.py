from __future__ import annotations

import dataclasses
import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdxstack.abi.quote import (
    CertificationData,
    Quote,
    QuoteBody,
    QuoteHeader,
    QuoteSignature,
    TdBody10,
    TdBody15,
    TdBody15Ex,
)
from tdxstack.abi.sgx_report import SgxReportBody
from tdxstack.abi.tdreport import ReportMac, TdInfo, TdReport, TeeTcbInfo
from tdxstack.errors import MalformedError

SIGNATURE = QuoteSignature(
    signature=b"S" * 64,
    attestation_key=b"K" * 64,
    qe_report=SgxReportBody(mrsigner=b"Q" * 32, isv_prod_id=2, isv_svn=11),
    qe_report_signature=b"R" * 64,
    qe_auth_data=b"auth",
    certification=CertificationData(5, b"-----BEGIN"),
)

TD10 = TdBody10(
    tee_tcb_svn=bytes(range(16)),
    mrseam=b"a" * 48,
    mrsignerseam=b"b" * 48,
    seam_attributes=0x1122334455667788,
    td_attributes=1 << 28,
    xfam=0x61AE7,
    mrtd=b"c" * 48,
    mrconfigid=b"g" * 48,
    mrowner=b"h" * 48,
    mrownerconfig=b"i" * 48,
    rtmr0=b"d" * 48,
    rtmr3=b"e" * 48,
    report_data=b"f" * 64,
)
TD15 = TdBody15.parse(TD10.to_bytes() + b"2" * 16 + b"v" * 48)
TD15EX = TdBody15Ex.parse(TD15.to_bytes() + bytes(range(237)))
ENCLAVE = SgxReportBody(mrenclave=b"E" * 32)


def quote(version: int, body: QuoteBody) -> Quote:
    tee_type = 0 if isinstance(body, SgxReportBody) else 0x81
    return Quote(QuoteHeader(version, tee_type=tee_type), body, SIGNATURE)


KINDS = {
    "v3-sgx": quote(3, ENCLAVE),
    "v4-sgx": quote(4, ENCLAVE),
    "v4-td": quote(4, TD10),
    "v5-sgx": quote(5, ENCLAVE),
    "v5-td10": quote(5, TD10),
    "v5-td15": quote(5, TD15),
    "v5-td15ex": quote(5, TD15EX),
}


@pytest.mark.parametrize("built", KINDS.values(), ids=list(KINDS))
def test_round_trip(built: Quote) -> None:
    data = built.to_bytes()
    parsed = Quote.parse(memoryview(data))
    assert parsed == built
    assert type(parsed.body) is type(built.body)
    assert parsed.to_bytes() == data
    assert data.startswith(parsed.signed_bytes)


@pytest.mark.parametrize("built", KINDS.values(), ids=list(KINDS))
def test_padding_is_kept_aside(built: Quote) -> None:
    data = built.to_bytes()
    padded = Quote.parse(data.ljust(16384, b"\0"))
    assert padded.trailing == bytes(16384 - len(data))
    assert padded.signed_bytes == built.signed_bytes
    assert padded.to_bytes() == data.ljust(16384, b"\0")


@pytest.mark.parametrize("built", KINDS.values(), ids=list(KINDS))
def test_every_cut_is_malformed(built: Quote) -> None:
    data = built.to_bytes()
    for size in range(len(data)):
        with pytest.raises(MalformedError) as caught:
            Quote.parse(data[:size])
        assert caught.value.hint


@pytest.mark.parametrize(
    ("body", "size"),
    [(TD10, 584), (TD15, 648), (TD15EX, 885), (ENCLAVE, 384)],
    ids=["10", "15", "15ex", "sgx"],
)
def test_version_5_says_type_and_size_of_its_body(body: QuoteBody, size: int) -> None:
    data = quote(5, body).to_bytes()
    assert struct.unpack_from("<HI", data, 48) == (body.BODY_TYPE, size)
    assert len(body.to_bytes()) == body.SIZE == size


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, bytes(range(16))),
        (16, b"a" * 48),
        (64, b"b" * 48),
        (112, bytes.fromhex("8877665544332211")),
        (120, (1 << 28).to_bytes(8, "little")),
        (128, (0x61AE7).to_bytes(8, "little")),
        (136, b"c" * 48),
        (184, b"g" * 48),
        (232, b"h" * 48),
        (280, b"i" * 48),
        (328, b"d" * 48),
        (472, b"e" * 48),
        (520, b"f" * 64),
        (584, b"2" * 16),
        (600, b"v" * 48),
        (648, bytes(range(237))),
    ],
)
def test_body_fields_lie_where_the_specification_puts_them(offset: int, value: bytes) -> None:
    assert TD15EX.to_bytes()[offset : offset + len(value)] == value


def test_extended_body_fields() -> None:
    tail = bytes(range(237))
    assert TD15EX.vm_id == 0
    assert TD15EX.td_id == tail[1:33]
    assert TD15EX.device_info == tail[33:81]
    assert TD15EX.initial_servtd_hash == tail[81:129]
    assert TD15EX.initial_servtd_attributes == int.from_bytes(tail[129:137], "little")
    assert TD15EX.initial_cpusvn == tail[137:153]
    assert TD15EX.initial_tee_tcb_svn == tail[153:169]
    assert TD15EX.initial_tee_fmspc == tail[169:181]
    assert TD15EX.current_servtd_hash == tail[181:229]
    assert TD15EX.current_servtd_attributes == int.from_bytes(tail[229:], "little")


def test_body_of_a_report_says_what_the_report_says() -> None:
    report = TdReport(
        ReportMac(report_data=b"f" * 64),
        TeeTcbInfo(
            tee_tcb_svn=TD10.tee_tcb_svn,
            mrseam=TD10.mrseam,
            mrsignerseam=TD10.mrsignerseam,
            attributes=TD10.seam_attributes,
            tee_tcb_svn2=b"2" * 16,
        ),
        TdInfo(
            attributes=TD10.td_attributes,
            xfam=TD10.xfam,
            mrtd=TD10.mrtd,
            mrconfigid=TD10.mrconfigid,
            mrowner=TD10.mrowner,
            mrownerconfig=TD10.mrownerconfig,
            rtmrs=TD10.rtmrs,
            servtd_hash=b"v" * 48,
        ),
    )
    assert TdBody10.of_report(report) == TD10
    assert TdBody15.of_report(report) == TD15


def changed(data: bytes, offset: int, value: bytes) -> bytes:
    return data[:offset] + value + data[offset + len(value) :]


@pytest.mark.parametrize(
    ("kind", "offset", "value", "said"),
    [
        ("v4-td", 0, b"\x06\x00", "version at offset 0 is 6"),
        ("v4-td", 0, b"\x03\x00", "version 3 with TEE type 0x81"),
        ("v4-td", 2, b"\x03\x00", "attestation key type at offset 2 is 3"),
        ("v4-td", 4, b"\x82", "TEE type at offset 4 is 0x82"),
        ("v5-td15", 48, b"\x05\x00", "body type 5"),
        ("v5-td15", 48, b"\x04\x00", "body type 4 at offset 48 of 648 bytes"),
        ("v5-td15", 48, b"\x02\x00", "body type 2 at offset 48 of 648 bytes"),
        ("v5-td15", 50, b"\xff\xff\xff\xff", "of 4294967295 bytes"),
        ("v5-td15", 4, b"\x00", "body type 3 at offset 48 of 648 bytes, with TEE type 0x0"),
        ("v5-sgx", 4, b"\x81", "body type 1 at offset 48 of 384 bytes, with TEE type 0x81"),
        ("v4-td", 632, b"\xff\xff\xff\xff", "signature section needs 4294967295 bytes"),
        ("v4-td", 636 + 128, b"\x05\x00", "certification data of type 5 at offset 128"),
        ("v4-td", 636 + 130, b"\x00", "quote signature"),
        ("v4-td", 636 + 134 + 448, b"\xff\xff", "QE authentication data needs 65535"),
    ],
)
def test_names_what_is_wrong(kind: str, offset: int, value: bytes, said: str) -> None:
    with pytest.raises(MalformedError, match=said):
        Quote.parse(changed(KINDS[kind].to_bytes(), offset, value))


@pytest.mark.parametrize("opening", [b"\x84", b"\xa3", b"\xd2\x84", b"\xd8\x3d\xd2\x84", b"\xd9\x01\x03"])
def test_dice_quotes_are_recognised(opening: bytes) -> None:
    with pytest.raises(MalformedError, match="DICE"):
        Quote.parse(opening + bytes(9000))
    with pytest.raises(MalformedError, match="version"):
        Quote.parse(opening + bytes(100))


@pytest.mark.parametrize("kind", range(8))
def test_certification_data_of_every_type_is_kept(kind: int) -> None:
    signature = dataclasses.replace(SIGNATURE, certification=CertificationData(kind, b"data" * kind))
    built = dataclasses.replace(KINDS["v5-td15"], signature=signature)
    assert Quote.parse(built.to_bytes()).signature.certification == CertificationData(kind, b"data" * kind)


@pytest.mark.parametrize("version", [3, 4, 5])
def test_bytes_after_the_certification_data_are_malformed(version: int) -> None:
    section = SIGNATURE.to_bytes(version)
    with pytest.raises(MalformedError, match="follow the end"):
        QuoteSignature.parse(section + b"x", version)


def test_memory_stays_in_proportion_to_the_input() -> None:
    """A quote of 4 MiB, nearly all of it certification data in certification data, is copied once."""
    size = 4 << 20
    signature = dataclasses.replace(SIGNATURE, certification=CertificationData(5, bytes(size)))
    data = dataclasses.replace(KINDS["v5-td15"], signature=signature).to_bytes()
    tracemalloc.start()
    try:
        Quote.parse(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * size


@settings(deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 2000), st.binary(min_size=1, max_size=8))
def test_any_change_gives_a_quote_or_malformed(kind: str, offset: int, value: bytes) -> None:
    data = changed(KINDS[kind].to_bytes(), offset, value)
    try:
        assert Quote.parse(data).to_bytes() == data
    except MalformedError as error:
        assert error.hint


@settings(deadline=None)
@given(st.binary(max_size=3000))
def test_any_input_gives_a_quote_or_malformed(data: bytes) -> None:
    try:
        assert Quote.parse(data).to_bytes() == data
    except MalformedError as error:
        assert error.hint
