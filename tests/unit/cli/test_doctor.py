"""tdx doctor and tdx host report, through their commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tdxstack.cli import doctor as doctor_module
from tdxstack.cli import host_report as host_module
from tdxstack.cli import tdx
from tdxstack.errors import MalformedError, UsageError
from tdxstack.host.check import Circumstances
from tests.scripted_host import ScriptedHost
from tests.unit.host import worlds
from tests.unit.host.worlds import ALL, NOW, World

CHECK_KEYS = {
    "id",
    "status",
    "expected",
    "found",
    "detail",
    "fix",
    "link",
    "purpose",
    "needs",
    "because_of",
    "implied_by",
}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> ScriptedHost:
    """The machine that the commands run on; a test may change it."""
    scripted = worlds.good_emr()
    stand_on(scripted, monkeypatch)
    return scripted


def run(*words: str) -> Result:
    return CliRunner().invoke(tdx, words)


def stand_on(scripted: ScriptedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (doctor_module, host_module):
        monkeypatch.setattr(module, "real_host", lambda: scripted)
        monkeypatch.setattr(module, "circumstances", lambda network: Circumstances(NOW, network))


def test_a_ready_host(machine: ScriptedHost) -> None:
    done = run("doctor")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0] == "ready: TDs can run here and prove themselves"
    assert " ok, 0 fail, 0 warning" in done.stdout


def test_a_host_that_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_on(worlds.tme_off(), monkeypatch)
    done = run("doctor")
    lines = done.stdout.splitlines()
    assert done.exit_code == 1
    assert lines[0] == "not ready: memory encryption (TME) is off in the BIOS (bios.tme)"
    assert lines[1].startswith("fix: BIOS: Socket Configuration > Processor Configuration > TME")
    assert lines[2].startswith("see: https://")
    assert sum("because of bios.tme" in line for line in lines) > 5
    assert not [line for line in lines if line.startswith("qemu.tdx")]
    everything = run("doctor", "--all").stdout
    assert [line for line in everything.splitlines() if line.startswith("qemu.tdx ")]


@pytest.mark.parametrize("world", ALL, ids=lambda world: world.__name__)
def test_the_document_describes_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_on(world(), monkeypatch)
    done = run("doctor", "--json")
    document = json.loads(done.stdout)
    assert done.exit_code == (0 if document["ready"] else 1)
    assert document["schema"] == 1
    assert document["platform"]["name"] in ("hardware", "emulated")
    assert document["recorded"] is None
    assert sum(document["counts"].values()) == len(document["checks"])
    assert all(set(check) == CHECK_KEYS for check in document["checks"])
    ids = [check["id"] for check in document["checks"]]
    assert document["first_cause"] in (None, *ids)


def test_what_another_check_shows_to_be_in_order_is_listed_on_demand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_on(worlds.without_root(), monkeypatch)
    done = run("doctor")
    assert done.exit_code == 0
    assert "bios.tme" not in done.stdout
    assert "to see it: sudo dmesg" in " ".join(done.stdout.split())
    everything = " ".join(run("doctor", "--all").stdout.split())
    assert "bios.tme unknown not seen, but kvm.vm_types shows that it is in order" in everything


def test_one_check_is_explained_without_looking(machine: ScriptedHost) -> None:
    done = run("doctor", "--explain", "bios.key_split")
    assert done.exit_code == 0
    assert "looks at:   MSR 0x87 (KEYID_PARTITIONING) bits 63:32" in done.stdout
    assert machine.asked == []
    document = json.loads(run("doctor", "--explain", "bios.key_split", "--json").stdout)
    assert document["needs"] == ["bios.tme_mt"]
    failed = run("doctor", "--explain", "bios.tdm")
    assert isinstance(failed.exception, UsageError)
    assert "bios.tdx" in failed.exception.hint


def test_what_hosts_say_gives_no_orders_to_terminals(machine: ScriptedHost) -> None:
    machine.files["/proc/cpuinfo"] = worlds.cpuinfo("Evil\x1b]0;owned\x07", 6, 207, "x\x1b[2J")
    done = run("doctor", "--all")
    assert "\x1b" not in done.stdout
    assert "\x07" not in done.stdout


def test_a_report_is_listed_written_and_read_back(machine: ScriptedHost, tmp_path: Path) -> None:
    machine.kvm[235] = 1
    path = tmp_path / "host.tar"
    written = run("host", "report", "-o", str(path))
    assert written.exit_code == 0
    assert "  msr 0x982\n" in written.stdout
    assert "taken out: " in written.stdout
    assert written.stdout.endswith(f"written: {path}\n")
    here = json.loads(run("doctor", "--json").stdout)
    there = json.loads(run("doctor", "--from", str(path), "--json").stdout)
    for key in ("ready", "ready_for", "first_cause", "diagnosis", "platform", "counts"):
        assert there[key] == here[key], key
    assert there["recorded"] == NOW.isoformat()
    again = run("host", "report", "-o", str(path))
    assert isinstance(again.exception, UsageError)


def test_a_dry_run_writes_nothing(machine: ScriptedHost, tmp_path: Path) -> None:
    path = tmp_path / "host.tar"
    done = run("host", "report", "--dry-run", "-o", str(path), "--json")
    document = json.loads(done.stdout)
    assert document["file"] is None
    assert set(document["contents"]) == {"README.txt", "doctor.json", "answers.json"}
    assert document["removed"]["secrets"] >= 1
    assert not path.exists()


@pytest.mark.parametrize("arguments", [[], ["-o", "no/such/directory/host.tar"]])
def test_what_cannot_be_written_is_said_before_looking(machine: ScriptedHost, arguments: list[str]) -> None:
    done = run("host", "report", *arguments)
    assert isinstance(done.exception, UsageError)
    assert machine.asked == []


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"garbage")
    done = run("doctor", "--from", str(tmp_path / "x.tar"))
    assert isinstance(done.exception, MalformedError)
