from __future__ import annotations

import dataclasses
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdxstack.abi.tdreport import ReportMac, TdInfo, TdReport, TeeTcbInfo, td_attribute_names, xfam_names
from tdxstack.errors import MalformedError


def bound_report() -> TdReport:
    tcb = TeeTcbInfo(tee_tcb_svn=bytes(range(16)), mrseam=b"s" * 48, tee_tcb_svn2=bytes(range(16, 32)))
    td = TdInfo(
        attributes=1 << 28,
        xfam=0x61AE7,
        mrtd=b"m" * 48,
        rtmrs=(b"0" * 48, b"1" * 48, b"2" * 48, b"3" * 48),
        servtd_hash=b"v" * 48,
    )
    mac = ReportMac(
        cpusvn=b"c" * 16,
        report_data=b"r" * 64,
        tee_tcb_info_hash=hashlib.sha384(tcb.to_bytes()).digest(),
        tee_info_hash=hashlib.sha384(td.to_bytes()).digest(),
        mac=b"M" * 32,
    )
    return TdReport(mac, tcb, td)


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, b"\x81"),
        (16, b"c" * 16),
        (32, hashlib.sha384(bound_report().tcb_info.to_bytes()).digest()),
        (80, hashlib.sha384(bound_report().td_info.to_bytes()).digest()),
        (128, b"r" * 64),
        (224, b"M" * 32),
        (256 + 8, bytes(range(16))),
        (256 + 24, b"s" * 48),
        (256 + 128, bytes(range(16, 32))),
        (512, (1 << 28).to_bytes(8, "little")),
        (520, (0x61AE7).to_bytes(8, "little")),
        (528, b"m" * 48),
        (720, b"0" * 48),
        (864, b"3" * 48),
        (912, b"v" * 48),
    ],
)
def test_fields_lie_where_the_specification_puts_them(offset: int, value: bytes) -> None:
    data = bound_report().to_bytes()
    assert len(data) == 1024
    assert data[offset : offset + len(value)] == value


def test_hashes_bind_and_cover_every_byte_of_their_structures() -> None:
    data = bytearray(bound_report().to_bytes())
    assert TdReport.parse(bytes(data)).hashes_bind()
    for offset in range(256, 1024):
        data[offset] ^= 1
        changed = TdReport.parse(bytes(data))
        assert changed.tcb_info_binds() is not (256 <= offset < 495)
        assert changed.td_info_binds() is not (offset >= 512)
        assert changed.hashes_bind() is (495 <= offset < 512)
        data[offset] ^= 1


@settings(deadline=None)
@given(st.binary(min_size=1020, max_size=1020), st.sampled_from([0, 1]))
def test_round_trip_keeps_reserved_bytes(rest: bytes, version: int) -> None:
    data = bytes([0x81, rest[0], version, rest[1]]) + rest
    report = TdReport.parse(data)
    assert report.to_bytes() == data
    assert report.mac.version == version
    assert report.mac.maced_bytes() == data[:224]


@settings(deadline=None)
@given(st.binary(max_size=1100))
def test_any_input_gives_a_report_or_malformed(data: bytes) -> None:
    try:
        assert TdReport.parse(memoryview(data)).to_bytes() == data
    except MalformedError as error:
        assert error.hint


@pytest.mark.parametrize(
    ("offset", "value", "said"),
    [(0, 0x00, "report type at offset 0 is 0x0"), (2, 2, "version at offset 2 is 2")],
)
def test_refuses_other_reports(offset: int, value: int, said: str) -> None:
    data = bytearray(bound_report().to_bytes())
    data[offset] = value
    with pytest.raises(MalformedError, match=said):
        TdReport.parse(bytes(data))


@pytest.mark.parametrize("size", [0, 1023, 1025])
def test_refuses_other_sizes(size: int) -> None:
    with pytest.raises(MalformedError, match="not 1024"):
        TdReport.parse(bytes(size))


def test_refuses_to_write_fields_of_the_wrong_size() -> None:
    report = bound_report()
    with pytest.raises(MalformedError):
        dataclasses.replace(report, reserved=b"").to_bytes()
    with pytest.raises(MalformedError):
        dataclasses.replace(report.td_info, mrtd=b"").to_bytes()


def test_attribute_names() -> None:
    assert td_attribute_names(0) == []
    assert td_attribute_names(1 << 28 | 1) == ["DEBUG", "SEPT_VE_DISABLE"]
    assert td_attribute_names(1 << 63 | 1 << 1) == ["BIT_1", "PERFMON"]


def test_names_of_the_extended_features() -> None:
    assert xfam_names(0x7) == ["X87", "SSE", "AVX"]
    assert xfam_names(1 << 17 | 1 << 18 | 1 << 63) == ["AMX_TILECFG", "AMX_TILEDATA", "BIT_63"]
    assert xfam_names(0) == []
