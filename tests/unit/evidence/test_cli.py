from __future__ import annotations

import base64
import errno
import hashlib
import io
import json
import os
import subprocess
import sys
import zipapp
from pathlib import Path
from typing import Any

import pytest

import tdxstack
from tdxstack.evidence.binding import report_data
from tdxstack.evidence.cli import main
from tdxstack.evidence.document import Evidence
from tests.unit.evidence.fake_kernel import (
    CONFIGFS,
    DATA,
    HOST_KEY,
    HOST_KEY_BLOB,
    MEASUREMENTS,
    TABLE,
    FakeKernel,
    log,
    quote_for,
    table,
    tdreport_for,
)

NONCE = bytes(range(32))


def call(*argv: str, kernel: FakeKernel | None = None) -> tuple[int, bytes, str]:
    stdout, stderr = io.BytesIO(), io.StringIO()
    code = main(argv, kernel or FakeKernel(), stdout, stderr)
    return code, stdout.getvalue(), stderr.getvalue()


def document(*argv: str, kernel: FakeKernel | None = None) -> Any:
    code, stdout, stderr = call(*argv, kernel=kernel)
    assert (code, stderr) == (0, "")
    return json.loads(stdout)


def test_collect() -> None:
    code, stdout, _ = call("collect", "--nonce", NONCE.hex(), "--json")
    evidence = Evidence.from_json(stdout)
    wanted = report_data(NONCE, HOST_KEY_BLOB)
    assert code == 0
    assert (evidence.nonce, evidence.host_key) == (NONCE, HOST_KEY_BLOB)
    assert evidence.report_data == wanted
    assert (evidence.tdreport, evidence.quote) == (tdreport_for(wanted), quote_for(wanted))
    assert (evidence.ccel_table, evidence.ccel_data) == (table(), log())
    assert evidence.measurements is not None
    assert evidence.measurements["mrtd"] == b"m" * 48
    assert (evidence.provider, evidence.generation, evidence.absent) == ("tdx_guest", 1, {})
    assert (evidence.kernel, evidence.os) == ("7.2.13+deb14-cloud-amd64", "Debian GNU/Linux 13 (trixie)")


def test_collect_without_log_and_registers() -> None:
    kernel = FakeKernel().without("/sys/firmware").without(MEASUREMENTS).without("/etc/os-release")
    evidence = Evidence.from_json(call("collect", "--nonce", NONCE.hex(), kernel=kernel)[1])
    assert (evidence.ccel_table, evidence.ccel_data, evidence.measurements) == (None, None, None)
    assert sorted(evidence.absent) == ["ccel", "measurements"]
    assert evidence.os == "unknown"


def test_collect_without_host_key() -> None:
    evidence = Evidence.from_json(call("collect", "--nonce", NONCE.hex(), "--no-host-key")[1])
    assert (evidence.host_key, evidence.report_data) == (b"", report_data(NONCE, b""))
    code, stdout, stderr = call("collect", "--nonce", NONCE.hex(), kernel=FakeKernel().without(HOST_KEY))
    assert (code, stdout) == (3, b"")
    assert stderr.startswith(f"error: the SSH host key {HOST_KEY} cannot be read")
    assert "hint: name it with --host-key" in stderr


def test_collect_needs_report_and_quote() -> None:
    for operation in ("ioctl", "mkdir"):
        kernel = FakeKernel()
        kernel.errors[operation] = errno.ENXIO
        code, stdout, stderr = call("collect", "--nonce", NONCE.hex(), kernel=kernel)
        assert (code, stdout) == (3, b"")
        assert [line.split(":")[0] for line in stderr.splitlines()] == ["error", "hint"]


def test_report_and_quote() -> None:
    wanted = b"\xab\xcd".ljust(64, b"\0")
    shown = document("report", "--report-data", "abcd")
    assert shown == {"report_data": wanted.hex(), "tdreport": base64.b64encode(tdreport_for(wanted)).decode()}
    assert call("report", "--raw", "--report-data", "abcd")[1] == tdreport_for(wanted)
    shown = document("quote")
    assert base64.b64decode(shown["quote"]) == quote_for(bytes(64))
    assert (shown["provider"], shown["generation"]) == ("tdx_guest", 1)
    assert call("quote", "--raw")[1] == quote_for(bytes(64))


def test_eventlog() -> None:
    shown = document("eventlog")
    assert base64.b64decode(shown["ccel_data"]) == log()
    assert shown["events"] == [
        {
            "register": "rtmr0",
            "type": "EV_SEPARATOR",
            "digest": hashlib.sha384(bytes(4)).hexdigest(),
            "data": "AAAAAA==",
        }
    ]
    assert call("eventlog", "--raw")[1] == log()
    kernel = FakeKernel()
    kernel.files[DATA] = b"garbage"
    assert call("eventlog", kernel=kernel)[0] == 2
    assert call("eventlog", "--raw", kernel=kernel)[1] == b"garbage"


def test_extend(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    digest = hashlib.sha384(b"content").digest()
    after = hashlib.sha384(b"\3" * 48 + digest).hexdigest()
    expected = {"register": "rtmr3", "digest": digest.hex(), "before": "03" * 48, "after": after}
    assert document("extend", "--rtmr", "3", "--file", str(tmp_path / "file")) == expected
    assert document("extend", "--rtmr", "3", "--digest", digest.hex()) == expected
    code, _, stderr = call("extend", "--rtmr", "3", "--file", str(tmp_path / "none"))
    assert code == 2
    assert "none cannot be read" in stderr


def test_check() -> None:
    shown = document("check")
    assert [(one["id"], one["status"]) for one in shown["checks"]] == [
        ("tdreport", "ok"),
        ("quote", "ok"),
        ("event_log", "ok"),
        ("registers", "ok"),
    ]
    assert all(sorted(one) == ["detail", "expected", "found", "id", "status"] for one in shown["checks"])


def test_check_names_what_is_missing() -> None:
    code, stdout, _ = call("check", kernel=FakeKernel().without(MEASUREMENTS))
    assert (code, json.loads(stdout)["checks"][3]["status"]) == (0, "warning")
    kernel = FakeKernel()
    kernel.directories = {CONFIGFS}
    kernel.files[TABLE] = kernel.files[TABLE][:36] + b"\1\1" + kernel.files[TABLE][38:]
    code, stdout, _ = call("check", kernel=kernel)
    checks = {one["id"]: one for one in json.loads(stdout)["checks"]}
    assert code == 1
    assert [checks[name]["status"] for name in ("tdreport", "quote", "event_log")] == ["ok", "fail", "fail"]
    assert "CC type 1.1" in checks["event_log"]["detail"]
    assert "mount" in checks["quote"]["detail"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "required: VERB"),
        (("dance",), "invalid choice"),
        (("collect",), "required: --nonce"),
        (("collect", "--nonce", "00"), "1 bytes given, 32 needed"),
        (("collect", "--nonce", "xy"), "'xy' is not hexadecimal"),
        (("quote", "--report-data", "00" * 65), "65 bytes given, at most 64 fit"),
        (("quote", "--report-data", "x"), "'x' is not hexadecimal"),
        (("extend", "--rtmr", "4", "--digest", "00" * 48), "invalid choice: 4"),
        (("extend", "--rtmr", "3"), "one of the arguments --digest --file is required"),
    ],
)
def test_usage(argv: tuple[str, ...], message: str) -> None:
    code, stdout, stderr = call(*argv)
    assert (code, stdout) == (2, b"")
    assert stderr.startswith("error: ")
    assert message in stderr
    assert "\nhint: see 'tdx-guest" in stderr


def test_interrupt() -> None:
    def interrupt(_: bytes) -> bytes:
        raise KeyboardInterrupt

    kernel = FakeKernel()
    kernel.quote = interrupt
    assert call("quote", kernel=kernel) == (130, b"", "interrupted\n")


def test_runs_as_a_zipapp_of_the_named_packages_with_the_standard_library_alone(tmp_path: Path) -> None:
    source = Path(tdxstack.__file__).parent
    tree = tmp_path / "tree/tdxstack"
    for package in ("abi", "evidence"):
        (tree / package).mkdir(parents=True)
        for module in (source / package).glob("*.py"):
            (tree / package / module.name).write_bytes(module.read_bytes())
    for name in ("__init__.py", "errors.py", "exchange.py"):
        (tree / name).write_bytes((source / name).read_bytes())
    (tmp_path / "tree/__main__.py").write_text("import tdxstack.evidence.__main__\n")
    zipapp.create_archive(tmp_path / "tree", tmp_path / "evidence.pyz")
    run = subprocess.run(
        [sys.executable, "-I", "-S", tmp_path / "evidence.pyz", "check"], capture_output=True, check=False
    )
    assert run.returncode in (0, 1), run.stderr
    assert len(json.loads(run.stdout)["checks"]) == 4


def test_reader_that_has_gone_is_no_error() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "wb") as nobody:
        argv = [sys.executable, "-m", "tdxstack.evidence", "check"]
        done = subprocess.run(argv, stdout=nobody, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (1, b"")
