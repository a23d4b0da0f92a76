from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tdxstack.cli import host_setup
from tdxstack.cli.host_setup import setup
from tdxstack.errors import TdxError, UnavailableError, UsageError
from tests.fake_system import FakeSystem, ubuntu

HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
"""As under `tdx`: a command keeps the help option that it was first asked for with."""


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSystem:
    fake = ubuntu()
    fake.files[f"/boot/config-{os.uname().release}"] = b"CONFIG_INTEL_TDX_HOST=y\n"
    monkeypatch.setattr(host_setup, "RealSystem", lambda log: fake)
    monkeypatch.setattr(host_setup, "STATE", tmp_path / "state")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setenv("SUDO_USER", "alice")
    return fake


def run(*words: str) -> Result:
    return CliRunner().invoke(setup, words, **HELP)


def refused(result: Result) -> TdxError:
    assert isinstance(result.exception, TdxError)
    return result.exception


def test_a_dry_run_shows_all_and_does_nothing(system: FakeSystem) -> None:
    before = dict(system.files)
    result = run("--dry-run")
    assert result.exit_code == 0
    assert "create /etc/modprobe.d/60-tdxstack.conf" in result.stdout
    assert "run update-grub" in result.stdout
    assert system.files == before


def test_nothing_is_done_without_consent(system: FakeSystem) -> None:
    before = dict(system.files)
    assert refused(run()).hint == "read the plan with --dry-run, then add --yes"
    assert system.files == before


def test_nothing_is_done_without_root(system: FakeSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert isinstance(refused(run("--yes")), UnavailableError)
    assert run("--dry-run").exit_code == 0


def test_all_rounds_are_shown_and_done_and_a_reboot_is_asked_for(system: FakeSystem) -> None:
    result = run("--yes")
    assert result.exit_code == 0
    assert "group.kvm.alice" in result.stdout
    assert "reboot, then run this again: the running kernel was booted without" in result.stdout
    assert b"qgsd:x:99:libvirt-qemu,alice" in system.files["/etc/group"]
    system.reboot()
    again = run()
    assert again.exit_code == 0
    assert "nothing is left to do" in again.stdout and "this host offers TDs" in again.stdout


def test_all_done_and_still_not_ready_is_exit_code_1(system: FakeSystem) -> None:
    run("--yes")
    system.reboot()
    system.files["/sys/module/kvm_intel/parameters/tdx"] = b"N\n"
    result = run()
    assert result.exit_code == 1
    assert "`tdx doctor` says why" in result.stdout


def test_json_is_one_document(system: FakeSystem) -> None:
    document = json.loads(run("--yes", "--json").stdout)
    assert "packages" in document["applied"] and document["steps"] == []
    assert document["reboot"] == ["the running kernel was booted without nohibernate kvm_intel.tdx=1"]


def test_what_stops_it_is_exit_code_3(system: FakeSystem) -> None:
    system.files["/proc/cpuinfo"] = b"vendor_id : AuthenticAMD\n"
    result = run("--yes")
    assert refused(result).exit_code == 3
    assert "stops here: this machine lacks a CPU with TDX" in result.stdout
    as_json = run("--json")
    assert as_json.exit_code == 3
    assert json.loads(as_json.stdout)["blockers"][0]["problem"].startswith(
        "this machine lacks a CPU with TDX"
    )


def test_undo(system: FakeSystem) -> None:
    before = dict(system.files)
    assert "nothing that tdx host setup has done" in refused(run("--undo")).message
    run("--yes")
    shown = run("--undo", "--dry-run")
    assert shown.exit_code == 0 and "undo quoting.socket" in shown.stdout
    assert system.files != before
    assert run("--undo", "--yes").exit_code == 0
    assert system.files == before
    assert isinstance(refused(run("--undo", "--pccs")), UsageError)
