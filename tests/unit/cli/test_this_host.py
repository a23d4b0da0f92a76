"""The commands that look at a host, on the machine that the tests run on, whatever that is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tdxstack.cli import this_host
from tdxstack.emulator.locate import Emulator
from tdxstack.host_access import AbsentError

ODD = {"PATH": "", "LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8"}


def run(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tdxstack", *words],
        env=ODD | {"HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_any_machine_gets_a_diagnosis_without_a_traceback(tmp_path: Path) -> None:
    done = run(tmp_path, "doctor", "--json")
    document = json.loads(done.stdout)
    assert done.stderr == ""
    assert done.returncode == (0 if document["ready"] else 1)
    assert run(tmp_path, "doctor").stdout.splitlines()[0] == document["diagnosis"]
    if not document["ready"] and document["first_cause"] in ("cpu.model", "machine.kind"):
        assert "platform is" in document["diagnosis"] or "tdx guest check" in document["diagnosis"]
    assert list(tmp_path.iterdir()) == []


def test_any_machine_can_be_reported_on(tmp_path: Path) -> None:
    written = run(tmp_path, "host", "report", "-o", str(tmp_path / "host.tar"))
    assert (written.returncode, written.stderr) == (0, "")
    there = json.loads(run(tmp_path, "doctor", "--from", str(tmp_path / "host.tar"), "--json").stdout)
    here = json.loads(run(tmp_path, "doctor", "--json").stdout)
    assert [check["status"] for check in there["checks"]] == [check["status"] for check in here["checks"]]


def test_programs_are_not_looked_for_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "planted-program").write_text("#!/bin/sh\n")
    (tmp_path / "planted-program").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    for path in ("", ":/usr/bin", "/usr/bin:"):
        monkeypatch.setenv("PATH", path)
        with pytest.raises(AbsentError):
            this_host.real_host().program("planted-program")


def test_under_sudo_the_emulator_is_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def locate(cache: Path) -> Emulator | None:
        asked.append(cache)
        return None

    monkeypatch.setattr(this_host, "locate", locate)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("SUDO_UID", "65534")
    monkeypatch.setenv("XDG_CACHE_HOME", "/root/elsewhere")
    this_host.circumstances(network=False)
    assert asked != []
    assert not asked[0].is_relative_to("/root")
