"""An emulated platform, made once for the whole run, and TDREPORTs as its TDX module would make them."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tdxstack.abi.tdreport import ReportMac, TdInfo, TdReport, TeeTcbInfo
from tdxstack.quoting.enclave import QuotingEnclave
from tdxstack.quoting.pki import Pki, open_pki

NOW = datetime(2026, 3, 1, 12, 0, 30, 123456, tzinfo=UTC)

VALID_1_0 = bytes.fromhex("ff01000000000000")
VALID_1_5 = bytes.fromhex("ff01030000000000")


def make_report(
    pki: Pki,
    *,
    valid: bytes = VALID_1_5,
    tee_tcb_svn2: bytes | None = None,
    version: int = 0,
    servtd_hash: bytes = bytes(48),
    report_data: bytes = b"N" * 64,
    attributes: int = 1 << 28,
) -> TdReport:
    """A TDREPORT of a TD on the platform of `pki`, with correct hashes and MAC."""
    platform = pki.platform
    tcb = TeeTcbInfo(
        valid=valid,
        tee_tcb_svn=platform.tee_tcb_svn,
        mrseam=platform.mrseam,
        mrsignerseam=platform.mrsignerseam,
        tee_tcb_svn2=platform.tee_tcb_svn if tee_tcb_svn2 is None else tee_tcb_svn2,
    )
    td = TdInfo(
        attributes=attributes,
        xfam=0xE7,
        mrtd=b"m" * 48,
        rtmrs=(b"0" * 48, b"1" * 48, b"2" * 48, b"3" * 48),
        servtd_hash=servtd_hash,
    )
    mac = ReportMac(
        version=version,
        cpusvn=platform.cpusvn,
        tee_tcb_info_hash=hashlib.sha384(tcb.to_bytes()).digest(),
        tee_info_hash=hashlib.sha384(td.to_bytes()).digest(),
        report_data=report_data,
    )
    return with_mac(pki, TdReport(mac, tcb, td))


def with_mac(pki: Pki, report: TdReport) -> TdReport:
    """`report` with the MAC that this platform's TDX module gives it."""
    mac = hmac.new(pki.report_mac_key, report.to_bytes()[:224], hashlib.sha256).digest()
    return replace(report, mac=replace(report.mac, mac=mac))


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return open_pki(tmp_path_factory.mktemp("platform") / "pki", NOW)


@pytest.fixture(scope="session")
def enclave(pki: Pki) -> QuotingEnclave:
    return QuotingEnclave(pki)


@pytest.fixture
def socket_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a short path: a unix socket's may have 107 bytes."""
    return tmp_path_factory.mktemp("q")
