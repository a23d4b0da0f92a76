"""What commands do to a machine that runs, seen from inside it: the TD that the acceptance suite uses too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tdxstack.machine.spec_parts import Kind
from tdxstack.testing.machines import Laboratory
from tdxstack.testing.runner import Tdx

NAME = "shared-td"


@pytest.fixture(scope="module", autouse=True)
def machine(laboratory: Laboratory) -> None:
    assert laboratory.shared(Kind.TD).name == NAME


def test_exec_passes_words_output_and_exit_code(tdx: Tdx) -> None:
    done = tdx.run("vm", "exec", NAME, "--", "sh", "-c", "echo out; echo 'two  words' >&2; exit 7", code=7)
    assert (done.stdout, done.stderr) == ("out\n", "two  words\n")
    document = json.loads(tdx.run("vm", "exec", "--json", NAME, "false").stdout)
    assert document == {"exit_code": 1, "stdout": "", "stderr": ""}


def test_files_go_in_and_come_back(tdx: Tdx, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(bytes(range(256)) * 40)
    tdx.run("vm", "cp", str(tmp_path / "there"), f"{NAME}:/root/copied")
    tdx.run("vm", "cp", f"{NAME}:/root/copied", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == (tmp_path / "there").read_bytes()
    tdx.run("vm", "cp", f"{NAME}:/root/absent", str(tmp_path / "none"), code=3)
    assert not (tmp_path / "none").exists()


def test_a_suspended_machine_stands_still(tdx: Tdx) -> None:
    tdx.run("vm", "suspend", NAME)
    try:
        assert tdx.json("vm", "show", NAME)["state"] == "paused"
        tdx.run("vm", "exec", "--timeout", "3", NAME, "true", code=3)
    finally:
        tdx.run("vm", "resume", NAME)
    assert tdx.json("vm", "show", NAME)["state"] == "running"
    tdx.run("vm", "exec", NAME, "true")


def test_the_console_shows_what_the_guest_writes(tdx: Tdx) -> None:
    console = subprocess.Popen(
        [sys.executable, "-m", "tdxstack", "vm", "console", NAME],
        env=tdx.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert console.stdin is not None and console.stdout is not None
    try:
        # The line is written again and again, as the console may still be on its way to QEMU.
        tdx.run(
            "vm",
            "exec",
            NAME,
            "sh",
            "-c",
            "for n in 1 2 3 4 5; do echo seen from outside > /dev/console; sleep 1; done",
        )
        assert b"seen from outside" in console.stdout.readline()
        console.stdin.close()
        assert console.wait(30) == 0
    finally:
        console.kill()
        console.wait()


def test_a_td_that_is_reset_is_measured_anew(tdx: Tdx) -> None:
    """The boot gives the same registers, and what was extended while the TD ran is gone."""
    unused = "00" * 48
    assert registers(tdx)["rtmr3"] == unused
    tdx.run("vm", "exec", NAME, "tdx-guest", "extend", "--rtmr", "3", "--digest", "11" * 48)
    before = registers(tdx)
    assert before["rtmr3"] != unused
    tdx.run("vm", "reboot", "--force", "--timeout", "300", NAME)
    assert registers(tdx) == before | {"rtmr3": unused}


def registers(tdx: Tdx) -> dict[str, str]:
    """What the kernel of the TD says of its registers."""
    places = "/sys/devices/virtual/misc/tdx_guest/measurements"
    script = f"cd {places} && for r in mrtd* rtmr*; do od -An -v -tx1 $r | tr -d ' \\n'; echo; done"
    values = tdx.run("vm", "exec", NAME, "sh", "-c", script).stdout.split()
    return dict(zip(("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"), values, strict=True))
