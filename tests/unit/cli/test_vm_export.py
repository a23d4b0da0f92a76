"""tdx vm export: what is printed, and what is refused."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from click.testing import CliRunner, Result

from tdxstack.cli import tdx
from tdxstack.errors import UsageError
from tdxstack.files import Directories
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_file import write_spec
from tdxstack.machine.store import MachineState, MachineStore
from tdxstack.platform import Platform
from tdxstack.workflows.export import shell_lines

SPEC = """
name: web
image: /images/web.qcow2
disks: [{path: /images/data.raw, overlay: false}]
"""
ARGV = ["/opt/qemu", "-L", "/opt/data", "-append", "root=/dev/vda quiet", "-S"]


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "web.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a machine that is there."""
    for name in ("DATA", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    store = MachineStore(Directories(*(tmp_path / name / "tdxstack" for name in ("CACHE", "DATA", "run"))))
    state = MachineState(
        name="td", platform="emulated", emulated=True, pid=0, ssh_port=0, started="2026-01-01", argv=ARGV
    )
    files = store.prepare("td")
    store.save(state)
    files.spec.write_bytes(write_spec(MachineSpec(name="td", platform=Platform.EMULATED, memory=4096)))
    files.authorized_key.write_text("ssh-ed25519 AAAA tdx\n")
    return "td"


def run(*words: str | Path) -> Result:
    arguments = ["vm", "export", *(str(word) for word in words)]
    return CliRunner().invoke(tdx, arguments, standalone_mode=False)


def test_a_machine_that_is_there_is_a_command_for_a_shell(machine: str) -> None:
    done = run(machine)
    assert shlex.split(done.stdout.replace("\\\n", "")) == ARGV
    assert done.stdout.splitlines()[-1] == "  -S"
    assert json.loads(run(machine, "--json").stdout)["argv"] == ARGV


def test_an_emulated_td_is_written_down_for_hardware(machine: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="KVM only"):
        raise run(machine, "--format", "libvirt").exception or AssertionError("it was exported")
    done = run(machine, "--format", "libvirt", "--platform", "hardware")
    domain = ElementTree.fromstring(done.stdout)
    assert (domain.get("type"), domain.findtext("memory")) == ("kvm", "4096")
    assert domain.findtext("sysinfo/entry") == "ssh-ed25519 AAAA tdx"
    source = domain.find("devices/disk/source")
    assert source is not None
    assert source.get("file") == str(tmp_path / "DATA/tdxstack/machines/td/disk.qcow2")
    assert "stop the machine first" in done.stderr


def test_a_machine_keeps_its_platform_in_qemu_s_words(machine: str) -> None:
    with pytest.raises(UsageError, match="has its platform already"):
        raise run(machine, "--platform", "hardware").exception or AssertionError("it was exported")


def test_a_machine_without_a_specification_is_a_command_only(machine: str, tmp_path: Path) -> None:
    (tmp_path / "DATA/tdxstack/machines/td/spec.json").unlink()
    assert run(machine).exit_code == 0
    with pytest.raises(UsageError, match="only its QEMU command is known"):
        raise run(machine, "--format", "kubevirt").exception or AssertionError("it was exported")


def test_a_file_becomes_a_domain_whose_images_are_not_written(spec: Path) -> None:
    done = run("--spec", spec, "--format", "libvirt")
    domain = ElementTree.fromstring(done.stdout)
    sources = [source.get("file") for source in domain.iterfind("devices/disk/source")]
    assert domain.get("type") == "kvm"
    assert sources == ["/images/web-disk0.qcow2", "/images/data.raw"]
    create = "qemu-img create -f qcow2 -b /images/web.qcow2 -F qcow2 /images/web-disk0.qcow2"
    assert done.stderr == f"make /images/web-disk0.qcow2 first: {create}\n"
    (forward,) = domain.iterfind("devices/interface/portForward/range")
    assert forward.get("to") == "22"
    assert int(forward.get("start", "0")) > 0


def test_tdx_s_own_image_is_copied_to_where_libvirt_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "td.yaml"
    path.write_text("name: td")
    done = run("--spec", path, "--format", "libvirt", "--json")
    document = json.loads(done.stdout)
    assert "/var/lib/libvirt/images/td-disk0.qcow2" in document["text"]
    assert "copy of tdx's own image" in document["notes"][0]


def test_a_file_becomes_a_virtual_machine(spec: Path) -> None:
    document = yaml.safe_load(run("--spec", spec, "--format", "kubevirt").stdout)
    assert (document["kind"], document["metadata"]["name"]) == ("VirtualMachine", "web")


@pytest.mark.parametrize(
    ("text", "format_", "reason"),
    [
        ("kind: efi", "libvirt", "has no name"),
        ("{name: td, platform: emulated}", "libvirt", "KVM only"),
        ("{name: old, kind: legacy}", "libvirt", "boot loaders for UEFI only"),
        ("{name: td, platform: emulated}", "kubevirt", "TDX hardware"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, text: str, format_: str, reason: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=reason):
        raise run("--spec", path, "--format", format_).exception or AssertionError("it was exported")


@pytest.mark.parametrize("words", [(), ("td", "--spec", __file__)])
def test_one_machine_is_exported(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="one machine"):
        raise run(*words).exception or AssertionError("it was exported")


def test_words_that_a_shell_would_take_apart_are_quoted() -> None:
    assert shell_lines(["qemu", "-name", "a b", "-S"]) == "qemu \\\n  -name 'a b' \\\n  -S\n"
