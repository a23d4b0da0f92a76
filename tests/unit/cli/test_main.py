"""Errors, exit codes and the shape of the command line, through the real entry point."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tdxstack", *arguments],
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def environment(tmp_path: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "SUDO_"))}
    return clean | {"HOME": str(tmp_path)}


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["nonsense"], 2, "error: No such command 'nonsense'."),
        (["up", "--nonsense"], 2, "error: No such option '--nonsense'."),
        (["up", "--name", "Not Usable", "--dry-run"], 2, "error: machine name 'Not Usable' is not usable"),
        (
            ["up", "--memory", "2X", "--dry-run"],
            2,
            "error: Invalid value for '--memory': '2X' is no size",
        ),
        (
            ["up", "--memory", "256M", "--dry-run"],
            2,
            "error: machine: memory: 256 MiB of memory is too little",
        ),
        (["predict", "--memory", "256M"], 2, "error: machine: memory: 256 MiB of memory is too little"),
        (["vm", "show", "ghost"], 2, "error: there is no machine 'ghost'"),
        (["down", "ghost"], 2, "error: there is no machine 'ghost'"),
        (["evidence", "show", "ghost"], 2, "error: 'ghost' is neither a machine nor a file"),
        (["vm", "list", "--connect", "qemu:///system"], 2, "error: --connect comes before the command"),
        (["vm", "export", "--spec", "ghost"], 2, "error: Invalid value for '--spec': File 'ghost' does not"),
        (["image", "inspect", "/bin/sh"], 2, "error: disk image /bin/sh: the disk cannot be read"),
        (["image", "grow", "/bin/sh", "8G"], 2, "error: disk image /bin/sh: the disk cannot be read"),
        (["image", "inspect", "/dev/null"], 3, "error: disk image /dev/null is neither a file nor a block"),
        (["image", "inspect", "/ab\x1b[31sent/x\ny"], 3, "error: disk image /abent/x y cannot be read"),
        (
            ["image", "seed", "--instance", "a\nb: c", "-o", "x", "--dry-run"],
            2,
            "error: 'a\\nb: c' is no inst",
        ),
        (["firmware", "sign", "/dev/null", "-o", "x", "--dry-run"], 2, "error: /dev/null: PE image: "),
    ],
)
def test_errors_are_two_lines_and_an_exit_code(
    tmp_path: Path, arguments: list[str], code: int, error: str
) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == code
    lines = done.stderr.splitlines()
    assert lines[0].startswith(error)
    assert lines[1].startswith("hint: ")
    assert len(lines) == 2
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["vm", "list"], "no machine is here; `tdx vm create` makes one"),
        (["image", "list"], "no image is built here; `tdx image build` builds one"),
    ],
)
def test_where_nothing_is_listed_it_is_said(tmp_path: Path, arguments: list[str], said: str) -> None:
    assert run(tmp_path, *arguments).stdout == f"{said}\n"


def test_errors_are_documents_too_with_json(tmp_path: Path) -> None:
    (line,) = run(tmp_path, "vm", "show", "ghost", "--json").stdout.splitlines()
    document = json.loads(line)
    assert document["exit_code"] == 2
    assert "ghost" in document["error"]


@pytest.mark.parametrize("arguments", [["doctor"], ["doctor", "--json"]])
def test_a_full_disk_behind_stdout_is_an_error_too(tmp_path: Path, arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tdxstack", *arguments],
            env=environment(tmp_path),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 3
    assert "No space left" in done.stderr.splitlines()[0]
    assert len(done.stderr.splitlines()) == 2


def test_tdx_debug_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tdxstack", "vm", "show", "ghost"],
        env=environment(tmp_path) | {"TDX_DEBUG": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" in done.stderr


def test_sigterm_ends_a_service_as_an_interrupt(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tdxstack", "serve", "qgs", "--socket", str(tmp_path / "q")],
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "q").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert not (tmp_path / "q").exists()
    assert process.returncode == 0


SLEEPS = """
import time
import click
from tdxstack import cli

@click.command()
def sleep():
    print("ready", flush=True)
    time.sleep(60)

cli.COMMANDS["sleep"] = ("__main__:sleep", "Sleep.")
cli.main(["sleep"])
"""


@pytest.mark.parametrize(
    ("ignored", "sent", "ends"),
    [
        ("INT", signal.SIGTERM, True),  # as a shell's job in the background
        ("INT", signal.SIGHUP, True),
        ("INT", signal.SIGINT, False),
        ("HUP", signal.SIGHUP, False),  # nohup
    ],
)
def test_signals_that_are_ignored_are_no_interrupts(
    tmp_path: Path, ignored: str, sent: signal.Signals, ends: bool
) -> None:
    words = ["env", "--default-signal=HUP", f"--ignore-signal={ignored}", sys.executable, "-c", SLEEPS]
    with subprocess.Popen(
        words, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(sent)
            if not ends:
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.3)
                process.terminate()
            _, complaint = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, complaint.strip()) == (130, b"error: interrupted")


HALF_MADE = """
import click
from tdxstack import cli

class Loop:
    def __init__(self):
        raise KeyboardInterrupt
    def __del__(self):
        self.never_set

@click.command()
def half():
    Loop()

cli.COMMANDS["half"] = ("__main__:half", "Be interrupted.")
cli.main(["half"])
"""


def test_interrupt_leaves_no_complaint_of_what_was_half_made(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HALF_MADE],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130
    assert done.stderr.lstrip() == "error: interrupted\n"


def test_help_lists_every_command(tmp_path: Path) -> None:
    text = run(tmp_path, "--help").stdout
    for name in ("up", "down", "doctor", "host", "emulator", "firmware", "image", "vm", "evidence", "serve"):
        assert f"\n  {name} " in text


def test_nothing_is_written_to_find_out_that_there_is_nothing(tmp_path: Path) -> None:
    assert json.loads(run(tmp_path, "vm", "list", "--json").stdout) == {"machines": [], "problems": []}
    assert json.loads(run(tmp_path, "emulator", "status", "--json").stdout) == {"emulators": []}
    assert json.loads(run(tmp_path, "image", "list", "--json").stdout) == {"images": []}
    assert json.loads(run(tmp_path, "cache", "list", "--json").stdout)["entries"] == []
    assert json.loads(run(tmp_path, "cache", "prune", "--json").stdout) == {"deleted": [], "size": 0}
    assert list(tmp_path.iterdir()) == []
