from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from tdxstack.errors import MalformedError, RejectedError, UnavailableError, UsageError
from tdxstack.evidence.ccel_log import read_ccel, without_padding
from tdxstack.evidence.kernel import Kernel
from tdxstack.evidence.registers import extend, foretell, read_registers
from tdxstack.evidence.tdreport import GET_REPORT0, get_tdreport
from tdxstack.evidence.tsm_quote import get_tsm_quote
from tests.unit.evidence.fake_kernel import (
    CONFIGFS,
    DATA,
    MEASUREMENTS,
    REPORTS,
    FakeKernel,
    log,
    quote_for,
    table,
    tdreport_for,
)

DATA64 = bytes(range(64))


def test_ioctl_number_is_linux_s() -> None:
    # _IOWR('T', 1, 1088 bytes) as include/uapi/asm-generic/ioctl.h computes it
    assert GET_REPORT0 == 0xC4405401


def test_tdreport() -> None:
    kernel = FakeKernel()
    assert get_tdreport(kernel, DATA64) == tdreport_for(DATA64)
    assert kernel.requests == [(GET_REPORT0, 1088)]


@pytest.mark.parametrize(
    ("number", "message", "hint"),
    [
        (errno.ENOENT, "this is not a TD", "modprobe tdx_guest"),
        (errno.ENXIO, "this is not a TD", "modprobe tdx_guest"),
        (errno.EACCES, "may not be opened", "root"),
        (errno.EIO, r"gave no TDREPORT: .*\(EIO\)", "dmesg"),
    ],
)
def test_tdreport_errors(number: int, message: str, hint: str) -> None:
    kernel = FakeKernel()
    kernel.errors["ioctl"] = number
    with pytest.raises(UnavailableError, match=message) as caught:
        get_tdreport(kernel, DATA64)
    assert hint in caught.value.hint


def test_report_data_of_wrong_size() -> None:
    with pytest.raises(MalformedError, match="REPORTDATA is 63 bytes long"):
        get_tdreport(FakeKernel(), bytes(63))
    with pytest.raises(MalformedError, match="REPORTDATA is 65 bytes long"):
        get_tsm_quote(FakeKernel(), bytes(65))


def test_quote() -> None:
    kernel = FakeKernel()
    quote = get_tsm_quote(kernel, DATA64)
    assert (quote.quote, quote.provider, quote.generation) == (quote_for(DATA64), "tdx_guest", 1)
    assert kernel.entries == {}


def test_interference_is_seen_and_the_request_repeated() -> None:
    kernel = FakeKernel()
    kernel.interfere = 2
    assert get_tsm_quote(kernel, DATA64).quote == quote_for(DATA64)
    kernel.interfere = 3
    with pytest.raises(UnavailableError, match="generation went from 4 to 6 by one write"):
        get_tsm_quote(kernel, DATA64)
    assert kernel.entries == {}


@pytest.mark.parametrize(
    ("operation", "number", "message"),
    [
        ("outblob", errno.EIO, r"answered the quote request with an error \(EIO\)"),
        ("outblob", errno.ETIMEDOUT, r"no quote came within .* \(ETIMEDOUT\)"),
        ("outblob", errno.EBUSY, r"still in flight \(EBUSY\)"),
        ("outblob", errno.EFBIG, r"larger than this kernel accepts \(EFBIG\)"),
        ("outblob", errno.ENOTTY, r"gone away \(ENOTTY\)"),
        ("outblob", errno.EINVAL, r"could not be read: .* \(EINVAL\)"),
        ("inblob", errno.EINVAL, r"could not be read: .* \(EINVAL\)"),
        ("mkdir", errno.ENXIO, "has no provider"),
        ("mkdir", errno.EACCES, "may not be written"),
        ("mkdir", errno.ENOSPC, "no entry could be made"),
    ],
)
def test_quote_errors(operation: str, number: int, message: str) -> None:
    kernel = FakeKernel()
    kernel.errors[operation] = number
    with pytest.raises(UnavailableError, match=message) as caught:
        get_tsm_quote(kernel, DATA64)
    assert caught.value.hint
    assert kernel.entries == {}


def test_entry_that_cannot_be_removed_does_not_hide_the_quote() -> None:
    kernel = FakeKernel()
    kernel.errors["rmdir"] = errno.EBUSY
    assert get_tsm_quote(kernel, DATA64).quote == quote_for(DATA64)


def test_empty_quote() -> None:
    kernel = FakeKernel()
    kernel.quote = lambda _: b""
    with pytest.raises(UnavailableError, match="empty quote") as caught:
        get_tsm_quote(kernel, DATA64)
    assert "quote generation service" in caught.value.hint


def test_other_provider() -> None:
    kernel = FakeKernel()
    kernel.provider = b"sev_guest\n"
    with pytest.raises(UnavailableError, match="provider is 'sev_guest'"):
        get_tsm_quote(kernel, DATA64)


def test_generation_that_is_no_number() -> None:
    kernel = FakeKernel()
    kernel.generation = b"many\n"
    with pytest.raises(UnavailableError, match=r"generation is b'many\\n', not a number"):
        get_tsm_quote(kernel, DATA64)
    assert kernel.entries == {}


def test_configfs_missing_in_part_or_whole() -> None:
    kernel = FakeKernel()
    kernel.directories = {CONFIGFS, f"{CONFIGFS}/pci_ep"}
    with pytest.raises(UnavailableError, match=f"there is no {REPORTS}"):
        get_tsm_quote(kernel, DATA64)
    kernel.directories = set()
    with pytest.raises(UnavailableError, match="configfs is not mounted") as caught:
        get_tsm_quote(kernel, DATA64)
    assert "mount -t configfs" in caught.value.hint


def test_interrupt_leaves_no_entry() -> None:
    def interrupt(_: bytes) -> bytes:
        raise KeyboardInterrupt

    kernel = FakeKernel()
    kernel.quote = interrupt
    with pytest.raises(KeyboardInterrupt):
        get_tsm_quote(kernel, DATA64)
    assert kernel.entries == {}


def test_ccel_without_padding() -> None:
    assert read_ccel(FakeKernel()) == (table(), log())


@pytest.mark.parametrize("data", [b"", b"garbage", log() + b"\xff" * 20 + b"x", b"\xff" * 100])
def test_unreadable_log_is_passed_on_whole(data: bytes) -> None:
    assert without_padding(data) == data


@pytest.mark.parametrize("missing", [DATA, "/sys/firmware/acpi"])
def test_no_ccel(missing: str) -> None:
    with pytest.raises(UnavailableError, match="there is no CCEL event log"):
        read_ccel(FakeKernel().without(missing))


def test_registers() -> None:
    registers = read_registers(FakeKernel())
    assert sorted(registers) == [
        "mrconfigid",
        "mrowner",
        "mrownerconfig",
        "mrtd",
        "rtmr0",
        "rtmr1",
        "rtmr2",
        "rtmr3",
    ]
    assert registers["rtmr2"] == b"\2" * 48


def test_old_kernel_has_no_registers() -> None:
    for use in (read_registers, lambda kernel: extend(kernel, 3, bytes(48))):
        with pytest.raises(UnavailableError, match="shows no registers") as caught:
            use(FakeKernel().without(MEASUREMENTS))
        assert "6.16" in caught.value.hint


def test_extend() -> None:
    kernel = FakeKernel()
    done = extend(kernel, 3, b"d" * 48)
    assert done.after == hashlib.sha384(b"\3" * 48 + b"d" * 48).digest()
    assert read_registers(kernel)["rtmr3"] == done.after
    assert (done.name, done.before, done.digest) == ("rtmr3", b"\3" * 48, b"d" * 48)


def test_extend_that_does_not_take() -> None:
    class Stuck(FakeKernel):
        def write(self, path: str, data: bytes) -> None:
            pass

    with pytest.raises(RejectedError, match="rtmr3 went from"):
        extend(Stuck(), 3, b"d" * 48)


def test_extend_refuses_bad_input_and_reports_errors() -> None:
    kernel = FakeKernel()
    with pytest.raises(UsageError, match="no RTMR4"):
        extend(kernel, 4, bytes(48))
    with pytest.raises(MalformedError, match="digest is 32 bytes long, not 48"):
        extend(kernel, 3, bytes(32))
    for number, message in ((errno.EACCES, "may not be used"), (errno.EIO, "EIO")):
        kernel.errors["extend"] = number
        with pytest.raises(UnavailableError, match=message):
            extend(kernel, 3, bytes(48))


def test_real_kernel_below_another_root(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    kernel.make_directory("/entry")
    (tmp_path / "entry/inblob").touch()
    kernel.write("/entry/inblob", b"data")
    assert kernel.read("/entry/inblob") == b"data"
    assert kernel.names("/entry") == ["inblob"]
    with pytest.raises(FileNotFoundError):
        kernel.write("/entry/other", b"data")
    with pytest.raises(OSError, match=os.strerror(errno.ENOTEMPTY)):
        kernel.remove_directory("/entry")
    with pytest.raises(OSError, match=os.strerror(errno.ENOTTY)):
        kernel.ioctl("/entry/inblob", GET_REPORT0, bytearray(1088))
    (tmp_path / "entry/inblob").unlink()
    kernel.remove_directory("/entry")
    assert kernel.release() == os.uname().release


def test_foretelling_an_extension_changes_nothing() -> None:
    kernel = FakeKernel()
    path = f"{MEASUREMENTS}/rtmr2:sha384"
    before = kernel.files[path]
    told = foretell(kernel, 2, b"d" * 48)
    assert kernel.files[path] == told.before == before
    assert extend(kernel, 2, b"d" * 48) == told
    with pytest.raises(UsageError, match="no RTMR4"):
        foretell(kernel, 4, bytes(48))
    with pytest.raises(UnavailableError, match="shows no registers"):
        foretell(FakeKernel().without(MEASUREMENTS), 2, bytes(48))
