"""tdx vm --connect: machines of a libvirt in memory."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tdxstack.cli import tdx
from tdxstack.errors import CommandError, TdxError, UnavailableError, UsageError
from tdxstack.machine import libvirt_binding
from tdxstack.machine.libvirt_binding import BY_AGENT, Failure
from tests.unit.machine.fake_libvirt import FakeDomain, FakeError, FakeLibvirt, FakeVolume

URI = "qemu+ssh://host/system"
SPEC = """
name: web
kind: efi
image: /images/web.qcow2
disks: [{path: /images/data.raw, overlay: false}, /images/more.qcow2]
"""


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> FakeLibvirt:
    world = FakeLibvirt()
    world.volumes += [FakeVolume(world, f"/images/{name}") for name in ("web.qcow2", "more.qcow2")]
    monkeypatch.setattr(libvirt_binding, "load", lambda: world)
    return world


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "web.yaml"
    path.write_text(SPEC)
    return str(path)


@pytest.fixture
def web(world: FakeLibvirt, spec: str) -> FakeDomain:
    assert run("create", spec).exit_code == 0
    return world.domains[0]


def run(*words: str) -> Result:
    return CliRunner().invoke(tdx, ["vm", "--connect", URI, *words], standalone_mode=False)


def refused(*words: str) -> TdxError:
    error = run(*words).exception
    assert isinstance(error, TdxError), error
    return error


def volumes(world: FakeLibvirt) -> list[str]:
    return sorted(volume.path() for volume in world.volumes)


def test_a_machine_s_life(world: FakeLibvirt, spec: str, tmp_path: Path) -> None:
    key = tmp_path / "key.pub"
    key.write_text("ssh-ed25519 AAAA me\n")
    made = json.loads(run("create", spec, "--authorized-key", str(key), "--json").stdout)
    assert made == {"name": "web", "state": "ended"}
    assert "ssh-ed25519 AAAA me</entry>" in world.domains[0].XMLDesc()
    assert volumes(world) == [
        *("/images/more.qcow2", "/images/web-disk0.qcow2", "/images/web-disk2.qcow2", "/images/web.qcow2")
    ]
    assert json.loads(run("start", "web", "--json").stdout)["machines"] == [
        {"name": "web", "state": "running"}
    ]
    assert "web   running" in run("list").stdout
    assert run("suspend", "web").exit_code == 0
    assert json.loads(run("list", "--json").stdout)["machines"] == [{"name": "web", "state": "paused"}]
    assert run("resume", "web").exit_code == 0
    assert run("reboot", "web", "--mode", "force").exit_code == 0
    assert isinstance(refused("rm", "web"), UnavailableError)
    assert run("stop", "web", "--mode", "agent").exit_code == 0
    assert world.domains[0].flags == BY_AGENT
    assert json.loads(run("rm", "web", "--json").stdout) == {"removed": ["web"]}
    assert world.domains == []
    assert volumes(world) == ["/images/more.qcow2", "/images/web.qcow2"]


def test_a_disk_that_is_no_overlay_outlives_its_machine(world: FakeLibvirt, tmp_path: Path) -> None:
    """Also one that is called as an overlay would be."""
    path = tmp_path / "web.yaml"
    path.write_text("{name: web, kind: efi, image: {path: /images/web-disk0.qcow2, overlay: false}}")
    world.volumes.append(FakeVolume(world, "/images/web-disk0.qcow2"))
    assert run("create", str(path)).exit_code == 0
    assert run("rm", "web").exit_code == 0
    assert "/images/web-disk0.qcow2" in volumes(world)


def test_a_machine_that_runs_is_removed_by_force(world: FakeLibvirt, web: FakeDomain) -> None:
    run("start", "web")
    assert run("rm", "web", "--force").exit_code == 0
    assert world.domains == []


def test_an_overlay_that_stays_is_told(world: FakeLibvirt, web: FakeDomain) -> None:
    world.volumes = [volume for volume in world.volumes if volume.path() != "/images/web-disk0.qcow2"]
    error = refused("rm", "web")
    assert "machine 'web' is removed, and not all its overlays: " in error.message
    assert "/images/web-disk0.qcow2" in error.message
    assert world.domains == []
    assert "/images/web-disk2.qcow2" not in volumes(world)


def test_show_tells_how_to_come_there(world: FakeLibvirt, web: FakeDomain) -> None:
    world.interfaces = {"eth0": {"addrs": [{"addr": "192.0.2.7"}]}}
    shown = json.loads(run("show", "web", "--json").stdout)
    assert (shown["state"], shown["uri"], shown["addresses"]) == ("ended", URI, ["192.0.2.7"])
    assert list(shown["ports"]) == ["22"]


def test_nothing_is_left_of_a_machine_that_libvirt_refuses(world: FakeLibvirt, spec: str) -> None:
    before = volumes(world)
    world.refuses_definitions = FakeError(Failure.CONFIG_UNSUPPORTED, "unsupported configuration")
    assert "unsupported configuration" in str(refused("create", spec))
    assert (volumes(world), world.domains) == (before, [])


def test_a_name_that_is_taken_costs_nobody_a_disk(world: FakeLibvirt, web: FakeDomain, spec: str) -> None:
    before = volumes(world)
    assert "'web' already" in str(refused("create", spec))
    assert volumes(world) == before


def test_tdx_s_own_image_must_be_put_there_first(world: FakeLibvirt, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("{name: own, kind: efi}")
    error = refused("create", str(path))
    assert isinstance(error, UsageError)
    assert "names no image" in error.message


def test_one_that_fails_does_not_keep_the_others_from_it(web: FakeDomain) -> None:
    error = refused("start", "web", "absent")
    assert isinstance(error, CommandError)
    assert "1 of 2 machines: absent: " in error.message
    assert json.loads(run("list", "--json").stdout)["machines"][0]["state"] == "running"


def test_a_dry_run_asks_nobody(world: FakeLibvirt, spec: str) -> None:
    world.refuses = FakeError(38, "no connection")
    for verb in ("start", "stop", "suspend", "resume", "reboot", "rm"):
        assert run(verb, "web", "--dry-run").stdout.startswith(f"would  web: ask libvirt at {URI} to ")
    assert "<name>web</name>" in run("create", spec, "--dry-run").stdout


def test_commands_for_machines_here_are_named(world: FakeLibvirt) -> None:
    assert "tdx vm ssh is for machines here" in str(refused("ssh", "web"))
    assert "suspend" in run("--help").stdout
    assert "export" not in run("--help").stdout


def test_a_console_is_joined(
    world: FakeLibvirt, web: FakeDomain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert isinstance(refused("console", "web"), UnavailableError)
    run("start", "web")
    world.stream.said = [b"login: "]
    keyboard, typist = os.pipe()
    screen = tmp_path / "screen"
    with screen.open("wb") as shown, os.fdopen(keyboard, "rb") as keys:
        monkeypatch.setattr("sys.stdin", keys)
        monkeypatch.setattr("sys.stdout", shown)

        def type_when_asked() -> None:
            while not screen.stat().st_size:
                time.sleep(0.01)
            os.write(typist, b"root\n\x1d ignored")
            os.close(typist)

        threading.Thread(target=type_when_asked, daemon=True).start()
        tdx.main(["vm", "--connect", URI, "console", "web"], standalone_mode=False)
    assert screen.read_bytes() == b"login: "
    assert world.stream.heard == b"root\n"
