"""Command lines read back and stopped."""

from __future__ import annotations

import pytest

from tdxstack.errors import MalformedError
from tdxstack.machine.qemu_command import build_qemu_command
from tdxstack.machine.stopped import Launch
from tests.golden.test_qemu_command import DIRECT, EMULATED, FILES, HARDWARE, MACHINES, TD


def test_reads_back_what_the_builder_wrote() -> None:
    launch = Launch.parse(build_qemu_command(TD.changed(direct_kernel=DIRECT), EMULATED, FILES))
    assert (launch.memory_mib, launch.vcpus) == (2048, 2)
    assert (launch.firmware, launch.disk) == (EMULATED.firmware, FILES.disk)
    assert (launch.kernel, launch.initrd, launch.command_line) == (
        DIRECT.kernel,
        DIRECT.initrd,
        DIRECT.command_line,
    )
    assert Launch.parse(build_qemu_command(TD, EMULATED, FILES)).kernel is None


def test_a_stopped_machine_opens_no_file_or_socket_of_the_machine() -> None:
    argv = Launch.parse(build_qemu_command(TD, EMULATED, FILES)).stopped_command(confidential=True)
    text = " ".join(argv)
    for path in (FILES.directory, FILES.runtime, "/data/pki", "/run/tdxstack/qgs"):
        assert str(path) not in text
    assert '{"qom-type": "tdx-tcg-guest", "id": "tdx0"}' in argv
    assert argv[-5:] == ["-S", "-qtest", "stdio", "-qtest-log", "/dev/null"]
    assert "null,id=console" in argv
    assert "user,id=net0" in argv


def test_what_the_tables_depend_on_stays_and_what_the_host_gives_goes() -> None:
    spec, placement = MACHINES["hardware-td-everything"]
    argv = build_qemu_command(spec.changed(vfio=()), placement, FILES)
    launch = Launch.parse(argv)
    assert (launch.vcpus, launch.memory_mib, launch.disk) == (4, 4096, FILES.disk)
    stopped = launch.stopped_command(confidential=False)
    assert "pc-q35-10.1,smm=off,pic=off" in stopped
    assert "node,nodeid=1,cpus=2,cpus=3,memdev=ram1" in stopped
    assert '{"qom-type": "memory-backend-ram", "id": "ram1", "size": 2147483648}' in stopped
    assert [value for value in stopped if value.startswith(("user", "tap", "bridge", "vhost"))] == [
        *("user,id=net0", "user,id=net1", "user,id=net2")
    ]
    assert stopped.count("virtio-rng-pci") == 2
    assert "name=opt/com.example/text,string=a,,b" in stopped
    assert not any("authorized_key" in word for word in stopped)


def test_a_device_of_the_host_cannot_be_asked_about() -> None:
    launch = Launch.parse(build_qemu_command(*MACHINES["hardware-td-everything"], FILES))
    with pytest.raises(MalformedError, match="hands over a device of the host"):
        launch.stopped_command(confidential=True)


def test_without_a_td_the_machine_is_made_like_one() -> None:
    argv = Launch.parse(build_qemu_command(TD, HARDWARE, FILES)).stopped_command(confidential=False)
    assert "q35,smm=off,pic=off" in argv
    assert argv[argv.index("-accel") + 1] == "tcg"
    assert "-object" not in argv


@pytest.mark.parametrize(
    "argv",
    [
        ["qemu"],
        ["qemu", "-m", "2G", "-smp", "1", "-bios", "f"],
        ["qemu", "-m", "512M", "-smp", "cpus=1", "-bios", "f"],
        ["qemu", "-m", "512M", "-smp", "1"],
        ["qemu", "disk.img"],
        ["qemu", "-m"],
        ["qemu", "-m", "512M", "-smp", "1", "-bios", "f", "-blockdev", "driver=file"],
        ["qemu", "-m", "512M", "-smp", "1", "-bios", "f", "-blockdev", "{}"],
    ],
)
def test_other_command_lines_are_refused(argv: list[str]) -> None:
    with pytest.raises(MalformedError, match="QEMU's command line"):
        Launch.parse(argv)
