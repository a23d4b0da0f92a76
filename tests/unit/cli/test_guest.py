"""`tdx guest` over a kernel in memory; what the kernel does is told in tests/unit/evidence."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tdxstack.cli import guest as guest_module
from tdxstack.cli import tdx
from tdxstack.errors import MalformedError, TdxError, UnavailableError, UsageError
from tdxstack.evidence.cli import main as tdx_guest
from tdxstack.evidence.document import Evidence
from tests.recorded_boot import Recorded, pki_in, synthetic_boot
from tests.unit.evidence.fake_kernel import (
    DATA,
    HOST_KEY_BLOB,
    MEASUREMENTS,
    FakeKernel,
    log,
    quote_for,
    quote_service,
)

DIGEST = hashlib.sha384(b"content").digest()


@pytest.fixture(scope="module")
def boot(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    now = datetime(2026, 3, 4, tzinfo=UTC)
    return synthetic_boot(pki_in(tmp_path_factory.mktemp("emulated"), now), now)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeKernel:
    fake = FakeKernel()
    monkeypatch.setattr(guest_module, "Kernel", lambda: fake)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return fake


def call(*words: str) -> Result:
    return CliRunner().invoke(tdx, ["guest", *words], standalone_mode=False)


def run(*words: str) -> Result:
    result = call(*words)
    assert result.exception is None, result.exception
    return result


def refused(*words: str) -> TdxError:
    error = call(*words).exception
    assert isinstance(error, TdxError), error
    assert error.hint
    return error


@pytest.mark.parametrize(
    "words",
    [
        ("check",),
        ("report", "--report-data", "abcd"),
        ("quote", "--report-data", "abcd"),
        ("quote", "--via", "vsock"),
        ("eventlog",),
        ("extend", "--rtmr", "3", "--digest", DIGEST.hex(), "--dry-run"),
        ("extend", "--rtmr", "3", "--digest", DIGEST.hex()),
    ],
)
def test_document_is_that_of_tdx_guest(kernel: FakeKernel, words: tuple[str, ...]) -> None:
    kernel.service = quote_service
    other = FakeKernel()
    other.service = quote_service
    stdout = io.BytesIO()
    assert tdx_guest(words, other, stdout, io.StringIO()) == 0
    assert json.loads(run(*words, "--json").stdout) == json.loads(stdout.getvalue())


def test_check(kernel: FakeKernel) -> None:
    result = call("check")
    assert result.return_value == 0
    for text in ("tdreport", "quote", "event_log", "registers", "over configfs (the kernel has it)"):
        assert text in result.stdout
    kernel.errors["mkdir"] = errno.ENXIO
    result = call("check")
    assert result.return_value == 1
    assert "modprobe tdx_guest" in result.stdout
    assert call("check", "--json").return_value == 1


def test_report(kernel: FakeKernel, boot: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    def ioctl(_path: str, _request: int, argument: bytearray) -> None:
        argument[64:] = boot.evidence.tdreport

    monkeypatch.setattr(kernel, "ioctl", ioctl)
    shown = run("report").stdout
    assert boot.report.td_info.mrtd.hex() in shown
    assert "SEPT_VE_DISABLE" in shown
    run("report", "-o", "report")
    assert Path("report").read_bytes() == boot.evidence.tdreport
    assert run("report", "-o", "-").stdout_bytes == boot.evidence.tdreport


def test_report_without_a_td(kernel: FakeKernel) -> None:
    kernel.errors["ioctl"] = errno.ENOENT
    assert isinstance(refused("report"), UnavailableError)


def test_quote_says_its_source(kernel: FakeKernel, boot: Recorded) -> None:
    result = run("quote")
    assert result.stderr.startswith("over configfs: the kernel has it\n")
    assert "tdx_guest" in result.stdout
    kernel.service = quote_service
    result = run("quote", "--via", "vsock", "-o", "quote")
    assert result.stderr == "over vsock: asked for; port 4050, the usual one\n"
    assert Path("quote").read_bytes() == quote_for(bytes(64))
    kernel.quote = lambda _: boot.evidence.quote
    result = run("quote", "--report-data", boot.report.report_data.hex())
    assert "version      4" in result.stdout
    assert "emulated" in result.stderr


def test_eventlog(kernel: FakeKernel) -> None:
    shown = run("eventlog").stdout
    assert "EV_SEPARATOR" in shown
    assert run("eventlog", "-o", "-").stdout_bytes == log()
    kernel.files[DATA] = b"garbage"
    assert isinstance(refused("eventlog"), MalformedError)
    assert run("eventlog", "-o", "-").stdout_bytes == b"garbage"


def test_extend(kernel: FakeKernel) -> None:
    path = f"{MEASUREMENTS}/rtmr3:sha384"
    after = hashlib.sha384(kernel.files[path] + DIGEST).digest()
    Path("file").write_bytes(b"content")
    planned = run("extend", "--rtmr", "3", "--file", "file", "--dry-run").stdout
    assert f"would be  {after.hex()}" in planned
    assert kernel.files[path] == b"\3" * 48
    done = run("extend", "--rtmr", "3", "--file", "file").stdout
    assert after.hex() in done
    assert kernel.files[path] == after
    assert "absent cannot be read" in refused("extend", "--rtmr", "3", "--file", "absent").message


def test_collect(kernel: FakeKernel) -> None:
    words = ("collect", "--nonce", "11" * 32)
    evidence = Evidence.from_json(run(*words).stdout)
    assert (evidence.nonce, evidence.host_key, evidence.provider) == (
        b"\x11" * 32,
        HOST_KEY_BLOB,
        "tdx_guest",
    )
    kernel.service = quote_service
    run(*words, "--no-host-key", "--via", "vsock", "-o", "evidence")
    evidence = Evidence.from_json(Path("evidence").read_bytes())
    assert (evidence.host_key, evidence.provider, evidence.generation) == (b"", "qgs", 0)


def test_output_goes_to_one_place(kernel: FakeKernel) -> None:
    for verb in ("report", "quote", "eventlog"):
        assert "contradict" in refused(verb, "-o", "x", "--json").message
        assert "cannot be written" in refused(verb, "-o", "absent/x").message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("extend", "--rtmr", "3"), "one of --digest and --file"),
        (("extend", "--rtmr", "3", "--digest", "00" * 48, "--file", "x"), "one of --digest and --file"),
    ],
)
def test_usage(kernel: FakeKernel, words: tuple[str, ...], message: str) -> None:
    error = refused(*words)
    assert isinstance(error, UsageError)
    assert message in error.message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("quote", "--report-data", "00" * 65), "65 bytes given, at most 64 fit"),
        (("quote", "--report-data", "x"), "'x' is not hexadecimal"),
        (("quote", "--via", "pigeon"), "'pigeon' is not one of"),
        (("extend", "--rtmr", "4", "--digest", "00" * 48), "4 is not in the range"),
        (("extend", "--rtmr", "3", "--digest", "00"), "1 bytes given, 48 needed"),
        (("collect", "--nonce", "00"), "1 bytes given, 32 needed"),
    ],
)
def test_options_say_what_they_need(kernel: FakeKernel, words: tuple[str, ...], message: str) -> None:
    error: Any = call(*words).exception
    assert message in error.format_message()


def test_root_keeps_its_powers_here(monkeypatch: pytest.MonkeyPatch, kernel: FakeKernel) -> None:
    left: list[str] = []
    monkeypatch.setattr("tdxstack.cli.become_invoking_user", lambda: left.append("root"))
    run("quote", "--json")
    assert left == []
    CliRunner().invoke(tdx, ["collateral", "bundle"])
    assert left == ["root"]


def test_quote_in_the_document_is_the_quote(kernel: FakeKernel) -> None:
    document = json.loads(run("quote", "--json").stdout)
    assert base64.b64decode(document["quote"]) == quote_for(bytes(64))
    assert (document["via"], document["reason"]) == ("configfs", "the kernel has it")
