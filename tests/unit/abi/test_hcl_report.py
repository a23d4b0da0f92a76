from __future__ import annotations

import dataclasses
import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.abi.hcl_report import HclReport
from tdxstack.abi.tdreport import ReportMac, TdInfo, TdReport, TeeTcbInfo
from tdxstack.errors import MalformedError

CLAIMS = b'{"keys":[{"kid":"HCLAkPub"}],"vm-configuration":{"secure-boot":true}}'
TDREPORT = TdReport(
    ReportMac(report_data=hashlib.sha256(CLAIMS).digest() + bytes(32)), TeeTcbInfo(), TdInfo(mrtd=b"m" * 48)
)


def packed(
    hardware: bytes = TDREPORT.to_bytes(), kind: int = 4, hash_type: int = 1, claims: bytes = CLAIMS
) -> bytes:
    """The NV index packed by hand."""
    data = struct.pack("<IIIII", 20 + len(claims), 1, kind, hash_type, len(claims)) + claims
    header = struct.pack("<4sIIIIIII", b"HCLA", 2, 1216 + len(data), 2, 0, 0, 0, 0)
    return (header + hardware.ljust(1184, b"\0") + data).ljust(2600, b"\0")


def test_fields() -> None:
    report = HclReport.parse(packed())
    assert report.tdreport == TDREPORT
    assert report.runtime_data == CLAIMS
    assert report.runtime_claims()["vm-configuration"] == {"secure-boot": True}
    assert report.runtime_data_binds()
    assert (report.version, report.request_type, report.report_type, report.hash_type) == (2, 2, 4, 1)
    assert report.trailing == bytes(2600 - 1236 - len(CLAIMS))
    assert report.to_bytes() == packed()


def test_changed_runtime_data_does_not_bind() -> None:
    report = HclReport.parse(packed())
    assert not dataclasses.replace(report, runtime_data=CLAIMS.replace(b"true", b"null")).runtime_data_binds()
    assert not dataclasses.replace(report, hash_type=2).runtime_data_binds()
    assert not dataclasses.replace(report, hash_type=9).runtime_data_binds()
    longer = dataclasses.replace(TDREPORT.mac, report_data=TDREPORT.report_data[:-1] + b"x")
    assert not HclReport.parse(
        packed(dataclasses.replace(TDREPORT, mac=longer).to_bytes())
    ).runtime_data_binds()


def test_longer_hashes_bind_too() -> None:
    mac = dataclasses.replace(TDREPORT.mac, report_data=hashlib.sha512(CLAIMS).digest())
    assert HclReport.parse(
        packed(dataclasses.replace(TDREPORT, mac=mac).to_bytes(), hash_type=3)
    ).runtime_data_binds()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "needs 1236 bytes at offset 0, 0 are left"),
        (packed()[:1235], "needs 1236 bytes"),
        (b"X" + packed()[1:], "signature at offset 0"),
        (packed()[: 1236 + 5], "runtime data needs .* at offset 1236, 5 are left"),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message) as caught:
        HclReport.parse(data)
    assert caught.value.hint


def test_report_of_another_technology() -> None:
    report = HclReport.parse(packed(bytes(1184), kind=2))
    with pytest.raises(MalformedError, match=r"report type at offset 1224 is 2 \(SEV-SNP\)"):
        _ = report.tdreport


@pytest.mark.parametrize("claims", [b"", b"[]", b"{", b"\xff", b"[" * 60000])
def test_runtime_data_that_is_no_object(claims: bytes) -> None:
    with pytest.raises(MalformedError, match="runtime data at offset 1236 is no JSON"):
        HclReport.parse(packed(claims=claims)).runtime_claims()


def test_runtime_data_of_absurd_size_is_not_read() -> None:
    with pytest.raises(MalformedError, match="100000 bytes of runtime data"):
        HclReport.parse(packed(claims=b"[" * 100000)).runtime_claims()


@given(st.binary(max_size=100), st.integers(0, 1300))
def test_any_change_gives_a_report_or_malformed(value: bytes, at: int) -> None:
    data = packed()[:at] + value + packed()[at + len(value) :]
    try:
        assert HclReport.parse(data).to_bytes() == data
    except MalformedError as error:
        assert error.hint
