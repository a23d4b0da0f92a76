from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tdxstack.errors import MalformedError, RejectedError, UnavailableError
from tdxstack.host import setup_journal
from tdxstack.host.setup import apply_plan, undo_plan, undo_setup, with_interrupted
from tdxstack.host.setup_distribution import distribution_of
from tdxstack.host.setup_journal import read_journal
from tdxstack.host.setup_parameters import GRUB_DROP_IN, KERNEL_COMMAND_LINE, MODPROBE_DROP_IN
from tdxstack.host.setup_plan import QGS_CONFIGURATION, Options, SetupPlan, plan_setup, ready_checks
from tdxstack.run import silent
from tests.fake_system import PLAIN_CONFIG, FakeSystem, fedora, tumbleweed, ubuntu

RELEASE = "7.0.0-10-generic"
ALICE = Options(user="alice")
WORLDS = {"ubuntu": ubuntu, "fedora": fedora, "tumbleweed": tumbleweed}
GENERATED = ("/boot/grub/grub.cfg", "/boot/entries")


@pytest.fixture(autouse=True)
def without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def plan(system: FakeSystem, options: Options = ALICE, state: Path | None = None) -> SetupPlan:
    made = plan_setup(system, distribution_of(system), options, RELEASE)
    return with_interrupted(made, state) if state else made


def set_up(system: FakeSystem, state: Path) -> None:
    """As the command does: until nothing is left."""
    for _ in range(5):
        made = plan(system, state=state)
        if not made.steps:
            return
        apply_plan(made, system, state, silent)
    raise AssertionError(f"steps are left: {[step.id for step in made.steps]}")


def blockers(system: FakeSystem, options: Options = ALICE) -> str:
    return "; ".join(blocker.problem for blocker in plan(system, options).blockers)


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_a_host_is_made_ready_and_put_back(world: Callable[[], FakeSystem], tmp_path: Path) -> None:
    system = world()
    before = dict(system.files)
    set_up(system, tmp_path)
    assert not plan(system).steps and plan(system).reboot
    assert {check.status.value for check in ready_checks(system)} == {"fail"}
    system.reboot()
    assert not plan(system).steps and not plan(system).reboot
    assert {check.status.value for check in ready_checks(system)} == {"ok"}
    undo_setup(system, tmp_path, silent)
    system.files = {
        path: data for path, data in system.files.items() if not path.startswith(("/sys", "/proc"))
    }
    assert system.files == {
        path: data for path, data in before.items() if not path.startswith(("/sys", "/proc"))
    }
    assert not (tmp_path / "journal.json").exists()
    with pytest.raises(UnavailableError, match="nothing that tdx host setup has done"):
        undo_plan(tmp_path)


def test_what_is_done_on_ubuntu(tmp_path: Path) -> None:
    system = ubuntu()
    first = plan(system)
    assert [step.id for step in first.steps] == [
        "packages",
        "kernel.parameters",
        "kvm.parameter",
        "quoting.packages",
    ]
    set_up(system, tmp_path)
    assert b'"$GRUB_CMDLINE_LINUX nohibernate kvm_intel.tdx=1"' in system.files["/boot/grub/grub.cfg"]
    assert system.files[MODPROBE_DROP_IN].endswith(b"options kvm_intel tdx=1\n")
    assert b"\n# port = 4050\n" in system.files[QGS_CONFIGURATION]
    assert b"kvm:x:99:alice\n" in system.files["/etc/group"]
    assert b"qgsd:x:99:libvirt-qemu,alice\n" in system.files["/etc/group"]
    assert system.files["/units/qgsd"] == b"enabled"


def test_fedoras_qgs_is_turned_on_and_left_as_it_is(tmp_path: Path) -> None:
    system = fedora()
    set_up(system, tmp_path)
    assert system.files["/units/qgs"] == system.files["/units/virtqemud.socket"] == b"enabled"
    assert "/etc/systemd/system/qgsd.service.d/60-tdxstack.conf" not in system.files
    assert not any("sgx-mpa" in command for command in system.ran)
    assert b"\n#port = 4050\n" in system.files[QGS_CONFIGURATION]


def test_a_plan_shows_every_file_and_command_before_it_is_done(tmp_path: Path) -> None:
    system = fedora()
    for _ in range(2):
        made = plan(system)
        shown = [line for step in made.steps for line in step.changes()]
        apply_plan(made, system, tmp_path, silent)
        commands = [line.removeprefix("run ").replace("'", "") for line in shown if line.startswith("run ")]
        assert system.ran == commands
        system.ran.clear()


def test_planning_changes_nothing() -> None:
    system = replace(ubuntu(), fail_after=0)
    before = dict(system.files)
    plan(system)
    assert system.files == before


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
@pytest.mark.parametrize("changes", range(16))
def test_an_interruption_after_any_change_can_be_completed_or_undone(
    world: Callable[[], FakeSystem], changes: int, tmp_path: Path
) -> None:
    whole = world()
    set_up(whole, tmp_path / "whole")
    for number, finish in enumerate((True, False)):
        system, state = world(), tmp_path / str(number)
        before = dict(system.files)
        system.fail_after = changes
        with contextlib.suppress(KeyboardInterrupt):
            set_up(system, state)
        system.fail_after = None
        if finish:
            set_up(system, state)
            assert system.files == whole.files
        elif read_journal(state).entries:
            undo_setup(system, state, silent)
            assert system.files == before
        else:
            assert system.files == before


@pytest.mark.parametrize("changes", range(10))
def test_an_interruption_of_undoing_can_be_completed(changes: int, tmp_path: Path) -> None:
    system = ubuntu()
    before = dict(system.files)
    set_up(system, tmp_path)
    system.fail_after = changes
    with pytest.raises(KeyboardInterrupt):
        undo_setup(system, tmp_path, silent)
        raise KeyboardInterrupt
    system.fail_after = None
    if read_journal(tmp_path).entries:
        undo_setup(system, tmp_path, silent)
    assert system.files == before


@pytest.mark.parametrize("writes", range(8))
def test_an_interruption_of_the_journal_leaves_what_can_be_undone(
    writes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = ubuntu()
    before = dict(system.files)
    left = iter(range(writes))
    write = setup_journal.Journal._write

    def interrupted(journal: setup_journal.Journal) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        write(journal)

    with monkeypatch.context() as patch:
        patch.setattr(setup_journal.Journal, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            set_up(system, tmp_path)
    if read_journal(tmp_path).entries:
        undo_setup(system, tmp_path, silent)
    assert system.files == before


def test_packages_of_an_interrupted_installation_are_removed_too(tmp_path: Path) -> None:
    system = ubuntu()
    before = dict(system.files)
    system.breaks_off = True
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            set_up(system, tmp_path)
    system.breaks_off = False
    set_up(system, tmp_path)
    undo_setup(system, tmp_path, silent)
    assert system.files == before


def test_a_file_that_is_written_again_still_goes_back_to_the_first(tmp_path: Path) -> None:
    system = ubuntu()
    system.files["/etc/default/grub"] = b'GRUB_CMDLINE_LINUX="nohibernate"\n'
    set_up(system, tmp_path)
    first = system.files[GRUB_DROP_IN]
    system.files["/etc/default/grub"] = b'GRUB_CMDLINE_LINUX=""\n'
    set_up(system, tmp_path)
    assert system.files[GRUB_DROP_IN] != first
    undo_setup(system, tmp_path, silent)
    assert GRUB_DROP_IN not in system.files


def test_a_file_that_changes_between_plan_and_write_is_left_alone(tmp_path: Path) -> None:
    system = ubuntu()
    made = plan(system)
    system.files[GRUB_DROP_IN] = b"somebody else's\n"
    with pytest.raises(RejectedError, match="has changed since the plan"):
        apply_plan(made, system, tmp_path, silent)
    assert system.files[GRUB_DROP_IN] == b"somebody else's\n"


def test_a_file_that_changed_afterwards_is_not_undone(tmp_path: Path) -> None:
    system = ubuntu()
    set_up(system, tmp_path)
    system.files[MODPROBE_DROP_IN] += b"options kvm_intel nested=0\n"
    done = dict(system.files)
    with pytest.raises(RejectedError, match="was changed after it was set up"):
        undo_setup(system, tmp_path, silent)
    assert system.files == done
    del system.files[MODPROBE_DROP_IN]
    undo_setup(system, tmp_path, silent)
    assert "/pkgs/qemu-system-x86" not in system.files


def test_what_was_there_before_is_neither_installed_nor_removed(tmp_path: Path) -> None:
    system = ubuntu()
    system.files["/pkgs/ovmf"] = b""
    system.files["/etc/default/grub"] = b'GRUB_CMDLINE_LINUX="quiet nohibernate"\n'
    set_up(system, tmp_path)
    assert b"kvm_intel.tdx=1" in system.files[GRUB_DROP_IN]
    assert b"nohibernate" not in system.files[GRUB_DROP_IN]
    undo_setup(system, tmp_path, silent)
    assert "/pkgs/ovmf" in system.files


def test_a_comment_sets_no_parameter() -> None:
    system = ubuntu()
    system.files["/etc/default/grub"] = b'#GRUB_CMDLINE_LINUX="nohibernate kvm_intel.tdx=1"\n'
    assert "kernel.parameters" in [step.id for step in plan(system).steps]


def test_an_existing_command_line_is_kept(tmp_path: Path) -> None:
    system = tumbleweed()
    set_up(system, tmp_path)
    assert system.files[KERNEL_COMMAND_LINE] == b"root=/dev/sda quiet nohibernate kvm_intel.tdx=1\n"


def test_suse_with_grub_uses_pbl(tmp_path: Path) -> None:
    system = tumbleweed()
    system.programs = {*system.programs - {"sdbootutil"}, "pbl"}
    step = next(step for step in plan(system).steps if step.id == "kernel.parameters")
    assert step.changes() == [
        "run pbl --add-option nohibernate --add-option kvm_intel.tdx=1 --config",
    ]
    undo = ["pbl", "--del-option", "nohibernate", "--del-option", "kvm_intel.tdx", "--config"]
    assert step.record()["undo"] == undo


def test_repositories_that_are_not_configured_are_not_added() -> None:
    system = ubuntu()
    del system.archive["tdx-qgs"]
    made = plan(system)
    assert not made.blockers
    assert "quoting.packages" not in [step.id for step in made.steps]
    assert any("Intel's SGX repository" in note for note in made.notes)
    assert "sgx-dcap-pccs" in blockers(system, replace(ALICE, pccs=True))
    assert "sgx-ra-service" in blockers(system, replace(ALICE, register=True))


def test_pccs_and_registration_are_installed_when_asked_for() -> None:
    system = ubuntu()
    system.archive |= {"sgx-dcap-pccs": [("1", "noble")], "sgx-ra-service": [("1", "noble")]}
    assert not any("sgx-dcap-pccs" in line for step in plan(system).steps for line in step.changes())
    asked = plan(system, replace(ALICE, pccs=True, register=True))
    shown = [line for step in asked.steps for line in step.changes()]
    assert "install tdx-qgs, libsgx-dcap-default-qpl, sgx-dcap-pccs, sgx-ra-service" in shown


def debian(version: str = "13") -> FakeSystem:
    """Debian with backports and, beside the running kernel, one of the user's."""
    system = ubuntu()
    system.files["/etc/os-release"] = f'ID=debian\nNAME="Debian GNU/Linux"\nVERSION_ID="{version}"\n'.encode()
    system.files[f"/boot/config-{RELEASE}"] = PLAIN_CONFIG
    system.files["/boot/config-7.2.0-mine"] = b"CONFIG_INTEL_TDX_HOST=y\n"
    old, new = ("1:10.0.13+ds-0+deb13u1", "trixie"), ("1:11.1.3+ds-1~bpo13+1", "trixie-backports")
    system.archive["qemu-system-x86"] = [new, old]
    del system.archive["linux-generic"]
    return system


def test_debian_needs_a_kernel_of_ones_own() -> None:
    assert "no kernel of Debian GNU/Linux is known that has INTEL_TDX_HOST" in blockers(debian())
    assert blockers(debian(), replace(ALICE, kernel="7.2.0-mine")) == ""
    given = plan(debian(), replace(ALICE, kernel="7.2.0-mine"))
    assert "choose it in the boot loader" in given.reboot[0]
    assert "was not built with INTEL_TDX_HOST" in blockers(debian(), replace(ALICE, kernel=RELEASE))
    assert "has no configuration" in blockers(debian(), replace(ALICE, kernel="7.9"))
    assert "is no kernel release" in blockers(debian(), replace(ALICE, kernel="../../etc/shadow"))
    unknown = debian()
    del unknown.files[f"/boot/config-{RELEASE}"]
    assert "shows no configuration" in blockers(unknown)


def test_debian_takes_qemu_from_its_backports() -> None:
    made = plan(debian(), replace(ALICE, kernel="7.2.0-mine"))
    assert any("--target-release trixie-backports" in line for line in made.steps[0].changes())
    old = debian("12")
    old.archive["qemu-system-x86"] = [("1:7.2+dfsg-7+deb12u18", "bookworm")]
    assert "has QEMU 10.1 or newer" in blockers(old)


def test_ubuntus_kernel_is_installed_where_another_runs() -> None:
    system = ubuntu()
    system.files[f"/boot/config-{RELEASE}"] = PLAIN_CONFIG
    made = plan(system)
    assert "install linux-generic, qemu-system-x86" in made.steps[0].changes()[0]
    assert "cannot host TDs" in made.reboot[0]


@pytest.mark.parametrize(
    ("path", "data", "problem"),
    [
        (
            "/etc/os-release",
            b'ID=ubuntu\nNAME="Ubuntu"\nVERSION_ID="24.04"\n',
            "Ubuntu 24.04 has no kernel and QEMU",
        ),
        ("/proc/cpuinfo", b"vendor_id : AuthenticAMD\n", "AMD CPUs do not have it"),
        ("/proc/cpuinfo", b"vendor_id : GenuineIntel\nflags : hypervisor\n", "this is a virtual machine"),
        ("/proc/cpuinfo", b"vendor_id : GenuineIntel\nflags : vmx\n", "does not even encrypt memory"),
        ("/proc/cpuinfo", b"", "names no vendor"),
    ],
)
def test_machines_that_cannot_be_made_ready(path: str, data: bytes, problem: str, tmp_path: Path) -> None:
    system = ubuntu()
    system.files[path] = data
    assert problem in blockers(system)
    before = dict(system.files)
    with pytest.raises(UnavailableError) as caught:
        apply_plan(plan(system), system, tmp_path, silent)
    assert caught.value.exit_code == 3 and caught.value.hint
    assert system.files == before and not system.ran


def test_missing_packages_and_tools_stop_it() -> None:
    system = ubuntu()
    del system.archive["ovmf"]
    assert "no repository has ovmf-inteltdx or ovmf" in blockers(system)
    system.programs -= {"update-grub"}
    assert "no tool for kernel parameters" in blockers(system)


def test_parameters_that_are_set_by_hand_are_enough() -> None:
    system = ubuntu()
    system.programs -= {"update-grub"}
    system.files["/proc/cmdline"] = b"root=/dev/sda nohibernate kvm_intel.tdx=1"
    assert blockers(system) == ""


def test_bytes_that_are_no_text_are_kept(tmp_path: Path) -> None:
    system = tumbleweed()
    system.files[KERNEL_COMMAND_LINE] = b"root=/dev/\xff\n"
    set_up(system, tmp_path)
    assert system.files[KERNEL_COMMAND_LINE] == b"root=/dev/\xff nohibernate kvm_intel.tdx=1\n"


def test_other_systems_are_named() -> None:
    system = ubuntu()
    system.files["/etc/os-release"] = b'ID=plan9\nNAME="Plan 9\n'
    with pytest.raises(UnavailableError, match="does not know"):
        distribution_of(system)
    system.files["/etc/os-release"] = (
        b'ID=rocky\nNAME="Rocky Linux"\nVERSION_ID=10.1\nID_LIKE="rhel centos fedora"\n'
    )
    assert distribution_of(system).described == "Rocky Linux 10.1"


@pytest.mark.parametrize("user", ["", "nobody-here"])
def test_users_that_do_not_exist_get_no_group(user: str, tmp_path: Path) -> None:
    system = ubuntu()
    apply_plan(plan(system), system, tmp_path, silent)
    ids = [step.id for step in plan(system, Options(user=user)).steps]
    assert [id for id in ids if id.startswith("group.")] == ["group.qgsd.libvirt-qemu"]


@pytest.mark.parametrize(
    "journal",
    [
        b"",
        b"[]",
        b'{"entries": [{"id": "x", "done": true, "record": {"kind": "shell"}}]}',
        b'{"entries": [{"id": "x", "done": true, "record": {"kind": "command", "undo": [1]}}]}',
        b'{"entries": [{"id": "x", "done": true, "record":'
        b' {"kind": "file", "path": "/x", "before": "?", "after": "", "then": []}}]}',
    ],
)
def test_a_damaged_journal_is_not_followed(journal: bytes, tmp_path: Path) -> None:
    (tmp_path / "journal.json").write_bytes(journal)
    with pytest.raises(MalformedError, match="is damaged"):
        undo_setup(ubuntu(), tmp_path, silent)


def test_undoing_is_shown_first(tmp_path: Path) -> None:
    system = ubuntu()
    set_up(system, tmp_path)
    lines = [line for _, changes in undo_plan(tmp_path) for line in changes]
    assert f"delete {MODPROBE_DROP_IN}" in lines
    assert f"restore {QGS_CONFIGURATION}" in lines
    assert "run gpasswd --delete alice kvm" in lines
    assert any(line.startswith("remove those of qemu-system-x86") for line in lines)
