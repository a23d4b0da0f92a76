from __future__ import annotations

import errno
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tdxstack.abi.qgs import ErrorCode, GetQuoteResponse
from tdxstack.abi.tdreport import TdReport
from tdxstack.errors import MalformedError, RejectedError, UnavailableError, UsageError
from tdxstack.evidence.qgs_quote import CONFIGURATION, HOST, configured_port
from tdxstack.evidence.quote_source import CONFIGFS, QGS_PROVIDER, VSOCK, SourcedQuote, get_quote
from tests.recorded_boot import pki_in, synthetic_boot
from tests.unit.evidence.fake_kernel import CONFIGFS as MOUNT
from tests.unit.evidence.fake_kernel import FakeKernel, quote_for, quote_service

DATA64 = bytes(range(64))


def with_vsock() -> FakeKernel:
    kernel = FakeKernel()
    kernel.service = quote_service
    return kernel


def without_configfs(kernel: FakeKernel) -> FakeKernel:
    kernel.directories = {MOUNT, f"{MOUNT}/other"}
    return kernel


def test_configfs_comes_first() -> None:
    kernel = with_vsock()
    quote = get_quote(kernel, DATA64)
    assert quote == SourcedQuote(quote_for(DATA64), "tdx_guest", 1, CONFIGFS, "the kernel has it")
    assert kernel.asked == []


def test_vsock_where_there_is_no_configfs() -> None:
    kernel = without_configfs(with_vsock())
    quote = get_quote(kernel, DATA64)
    assert (quote.quote, quote.provider) == (quote_for(DATA64), QGS_PROVIDER)
    assert (quote.generation, quote.via) == (0, VSOCK)
    assert "no /sys/kernel/config/tsm/report" in quote.reason
    assert "port 4050, the usual one" in quote.reason
    assert kernel.asked == [((HOST, 4050), 30)]


def test_what_was_asked_for_is_taken() -> None:
    assert get_quote(with_vsock(), DATA64, VSOCK).via == VSOCK
    assert get_quote(with_vsock(), DATA64, CONFIGFS).reason == "asked for"
    with pytest.raises(UnavailableError, match="no /sys/kernel/config/tsm/report"):
        get_quote(without_configfs(with_vsock()), DATA64, CONFIGFS)


def test_neither_is_there() -> None:
    with pytest.raises(UnavailableError, match="there is no /sys/kernel/config/tsm/report") as caught:
        get_quote(without_configfs(FakeKernel()), DATA64)
    assert "modprobe tdx_guest" in caught.value.hint


def test_vsock_that_fails_does_not_hide_that_configfs_is_missing() -> None:
    kernel = without_configfs(FakeKernel())
    kernel.service = OSError(errno.ENODEV, "")
    with pytest.raises(
        UnavailableError, match=r"there is no .*/tsm/report, and no quote over vsock"
    ) as caught:
        get_quote(kernel, DATA64)
    assert "modprobe tdx_guest" in caught.value.hint
    assert "vhost-vsock-pci" in caught.value.hint


def test_a_failing_configfs_is_told_and_not_gone_round() -> None:
    kernel = with_vsock()
    kernel.errors["outblob"] = errno.EIO
    with pytest.raises(UnavailableError, match="VMM answered the quote request with an error") as caught:
        get_quote(kernel, DATA64)
    assert "--via vsock" in caught.value.hint
    assert kernel.asked == []


@pytest.mark.parametrize(
    ("text", "port"),
    [
        (None, None),
        ("", None),
        ("port=4050", 4050),
        ("# port=1\n port = 0x1000  # comment\n", 4096),
        ("port=1\nport=2\n", 2),
        ("report=3\n", None),
        ("\xff\xfe", None),
    ],
)
def test_port_is_that_of_libtdx_attest(text: str | None, port: int | None) -> None:
    kernel = with_vsock()
    if text is not None:
        kernel.files[CONFIGURATION] = text.encode("latin-1")
    assert configured_port(kernel) == port
    quote = get_quote(kernel, DATA64, VSOCK)
    assert kernel.asked == [((HOST, port or 4050), 30)]
    assert (CONFIGURATION in quote.reason) is (port is not None)


@pytest.mark.parametrize("port", ["0", "4294967295", "x", "99999999999999999999"])
def test_port_must_be_one(port: str) -> None:
    kernel = with_vsock()
    kernel.files[CONFIGURATION] = f"port={port}\n".encode()
    with pytest.raises(UsageError, match=f"port '{port}' is none"):
        get_quote(kernel, DATA64, VSOCK)


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (OSError(errno.EAFNOSUPPORT, ""), "the kernel has no vsock (EAFNOSUPPORT)", "modprobe vmw_vsock"),
        (OSError(errno.ENODEV, ""), "no vsock device (ENODEV)", "vhost-vsock-pci"),
        (OSError(errno.ENETUNREACH, ""), "no vsock device (ENETUNREACH)", "vhost-vsock-pci"),
        (OSError(errno.ECONNREFUSED, ""), "nobody listens there (ECONNREFUSED)", "/etc/qgs.conf"),
        (OSError(errno.ECONNRESET, ""), "no vsock device (ECONNRESET)", "/etc/qgs.conf"),
        (OSError(errno.EPIPE, ""), "closed the connection (EPIPE)", "log"),
        (OSError(errno.EACCES, ""), "may not use vsock (EACCES)", "root"),
        (OSError(errno.EPERM, ""), "may not use vsock (EPERM)", "root"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "Cannot allocate memory (ENOMEM)", "log"),
        (TimeoutError(), "no answer within 30 s", "log"),
        (EOFError("closed the connection 4 bytes early"), "the service closed the connection 4", "log"),
    ],
)
def test_each_failure_of_vsock_is_told_apart(error: OSError | EOFError, message: str, hint: str) -> None:
    kernel = FakeKernel()
    kernel.service = error
    with pytest.raises(UnavailableError) as caught:
        get_quote(kernel, DATA64, VSOCK)
    assert caught.value.message.startswith("no quote over vsock 2:4050: ")
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_service_that_refuses() -> None:
    kernel = FakeKernel()
    kernel.service = lambda message: GetQuoteResponse(error_code=ErrorCode.UNEXPECTED).to_bytes()
    with pytest.raises(RejectedError, match=r"refuses a quote: UNEXPECTED \(0x12001\)"):
        get_quote(kernel, DATA64, VSOCK)


@pytest.mark.parametrize(
    "answer", [b"", b"garbage", GetQuoteResponse(b"quote").to_bytes()[:-1], GetQuoteResponse().to_bytes()]
)
def test_answer_that_is_none(answer: bytes) -> None:
    kernel = FakeKernel()
    kernel.service = lambda message: answer
    with pytest.raises(MalformedError):
        get_quote(kernel, DATA64, VSOCK)


def test_tdreport_is_needed_for_vsock() -> None:
    kernel = with_vsock()
    kernel.errors["ioctl"] = errno.ENOENT
    with pytest.raises(UnavailableError, match="this is not a TD"):
        get_quote(kernel, DATA64, VSOCK)
    assert kernel.asked == []


def test_quote_with_other_report_data_is_refused(tmp_path: Path) -> None:
    now = datetime(2026, 3, 4, tzinfo=UTC)
    recorded = synthetic_boot(pki_in(tmp_path, now), now)
    asked_for = TdReport.parse(recorded.evidence.tdreport).report_data
    kernel = FakeKernel()
    kernel.quote = lambda _: recorded.evidence.quote
    assert get_quote(kernel, asked_for).quote == recorded.evidence.quote
    with pytest.raises(RejectedError, match=f"asked for was {DATA64.hex()}"):
        get_quote(kernel, DATA64)
    other = replace(recorded.quote, header=replace(recorded.quote.header, version=9)).to_bytes()
    kernel.quote = lambda _: other
    assert get_quote(kernel, DATA64).quote == other, "what is not known here is for the verifier to judge"


def test_report_data_has_64_bytes() -> None:
    with pytest.raises(MalformedError, match="REPORTDATA is 63 bytes long"):
        get_quote(FakeKernel(), bytes(63))
