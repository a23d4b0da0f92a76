"""Setting up a real tree of files, with programs of its own."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tdxstack.errors import CommandError, UnavailableError
from tdxstack.host.setup import apply_plan, undo_setup
from tdxstack.host.setup_distribution import distribution_of
from tdxstack.host.setup_plan import Options, plan_setup
from tdxstack.host.setup_system import RealSystem
from tdxstack.run import silent
from tests.fake_system import CPUINFO, TDX_CONFIG

RELEASE = "7.0.0-10-generic"

PROGRAMS = {
    "dpkg-query": 'for name; do :; done; [ -e "$root/pkgs/$name" ] && printf installed',
    "apt-cache": """for name; do :; done
case $1:$name in
policy:qemu-system-x86) echo '  Candidate: 1:10.2.1+ds-1' ;;
madison:qemu-system-x86|madison:ovmf|madison:libvirt-*) echo "$name | 10.2.1 | http://deb resolute/main" ;;
esac""",
    "apt-get": """while [ $# -gt 0 ]; do
case $1 in
install) verb=install ;;
remove) verb=remove ;;
-*|update) ;;
*) [ $verb = install ] && : > "$root/pkgs/$1"; [ $verb = remove ] && rm "$root/pkgs/$1" ;;
esac; shift; done; echo done""",
    "update-grub": 'cd "$root"; cat etc/default/grub etc/default/grub.d/*.cfg > boot/grub.cfg || :',
    "usermod": "exit 7",
}


@pytest.fixture
def system(tmp_path: Path) -> RealSystem:
    root, programs = tmp_path / "root", tmp_path / "bin"
    for folder in (root / "pkgs", programs):
        folder.mkdir(parents=True)
    for name, body in PROGRAMS.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nPATH=/usr/bin:/bin\nroot="{root}"\n{body}\n')
        program.chmod(0o755)
    for path, data in {
        "etc/os-release": b'ID=ubuntu\nNAME="Ubuntu"\nVERSION_ID="26.04"\n',
        "etc/default/grub": b'GRUB_CMDLINE_LINUX=""\n',
        "etc/passwd": b"alice:x:1000:1000::/home/alice:/bin/sh\n",
        "proc/cpuinfo": CPUINFO,
        f"boot/config-{RELEASE}": TDX_CONFIG,
        "boot/grub.cfg": b"",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return RealSystem(tmp_path / "log", root, str(programs))


def test_a_tree_is_set_up_and_put_back(system: RealSystem, tmp_path: Path) -> None:
    made = plan_setup(system, distribution_of(system), Options(), RELEASE)
    assert not made.blockers
    apply_plan(made, system, tmp_path / "state", silent)
    assert {path.name for path in (system.root / "pkgs").iterdir()} == {
        "qemu-system-x86",
        "ovmf",
        "libvirt-daemon-system",
        "libvirt-clients",
    }
    assert b"nohibernate kvm_intel.tdx=1" in (system.root / "boot/grub.cfg").read_bytes()
    assert not plan_setup(system, distribution_of(system), Options(), RELEASE).steps
    assert stat.S_IMODE((tmp_path / "state/journal.json").stat().st_mode) == 0o600
    assert "done" in system.log.read_text()
    undo_setup(system, tmp_path / "state", silent)
    assert list((system.root / "pkgs").iterdir()) == []
    assert not (system.root / "etc/modprobe.d/60-tdxstack.conf").exists()
    assert b"nohibernate" not in (system.root / "boot/grub.cfg").read_bytes()


def test_a_program_that_fails_stops_it_and_the_steps_before_can_be_undone(
    system: RealSystem, tmp_path: Path
) -> None:
    (system.root / "etc/group").write_bytes(b"kvm:x:99:\n")
    made = plan_setup(system, distribution_of(system), Options(user="alice"), RELEASE)
    with pytest.raises(CommandError, match="usermod failed with exit code 7"):
        apply_plan(made, system, tmp_path / "state", silent)
    assert (system.root / "etc/modprobe.d/60-tdxstack.conf").exists()
    with pytest.raises(UnavailableError, match="gpasswd was not found"):
        undo_setup(system, tmp_path / "state", silent)


def test_files_keep_their_mode(system: RealSystem) -> None:
    path = system.root / "etc/default/grub"
    path.chmod(0o600)
    system.write("/etc/default/grub", b"new")
    system.write("/etc/new", b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((system.root / "etc/new").stat().st_mode) == 0o644


def test_what_is_not_there(system: RealSystem) -> None:
    assert (
        system.read("/none") is None and system.read("/etc") is None and system.read("/etc/passwd/x") is None
    )
    assert system.names("/none") == ()
    assert system.ask(["no-such-program"]).returncode == 127
    system.remove("/none")
