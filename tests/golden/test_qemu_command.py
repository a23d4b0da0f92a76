"""QEMU command lines, kept as text beside this file. Set TDX_UPDATE_GOLDEN=1 to write them anew."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tdxstack.errors import MalformedError, UnavailableError, UsageError
from tdxstack.machine.placement import EmulatedSilicon, Placement
from tdxstack.machine.qemu_command import build_qemu_command
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_file import parse_spec
from tdxstack.machine.spec_parts import DirectKernel, Emulation, Kind, PageTracking, Td, UnifiedKernel, Vsock
from tdxstack.machine.spec_values import UnixAddress
from tdxstack.machine.store import MachineFiles
from tdxstack.platform import Platform

GOLDEN = Path(__file__).parent
FILES = MachineFiles(Path("/data/machines/td"), Path("/run/tdxstack/machines/td"))
EMULATED = Placement(
    platform=Platform.EMULATED,
    qemu=("/opt/emulator/qemu-system-x86_64", "-L", "/opt/emulator/data"),
    firmware=Path("/fw/OVMF.inteltdx.ms.fd"),
    authorized_key="ssh-ed25519 AAAA tdx",
    silicon=EmulatedSilicon(Path("/data/pki/mac.key"), b"\1" * 48, b"\2" * 16, b"\3" * 16),
    quote_service=UnixAddress(Path("/run/tdxstack/qgs")),
)
HARDWARE = replace(EMULATED, platform=Platform.HARDWARE, qemu=("qemu-system-x86_64",), silicon=None)
ORDINARY = replace(EMULATED, silicon=None)
ON_KVM = replace(ORDINARY, platform=Platform.HARDWARE, qemu=("qemu-system-x86_64",))
BIOS = replace(ORDINARY, firmware=None)
TD = MachineSpec(name="td")
DIRECT = DirectKernel(
    kernel=Path("/boot/vmlinuz"), initrd=Path("/boot/initrd.img"), command_line="console=ttyS0 quiet"
)
UKI = UnifiedKernel(image=Path("/boot/linux.efi"))
MACHINES = {
    "emulated-td": (TD, EMULATED),
    "emulated-td-strict-debug": (
        TD.changed(
            td=Td(debug=True, mrconfigid=b"\4" * 48), emulation=Emulation(ve=True, sept=PageTracking.ON)
        ),
        EMULATED,
    ),
    "emulated-td-direct-kernel": (TD.changed(direct_kernel=DIRECT), EMULATED),
    "hardware-td": (TD.changed(vcpus=4, memory=8192), HARDWARE),
    "ordinary-on-tcg": (TD.changed(kind=Kind.EFI), ORDINARY),
    "emulated-td-uki": (TD.changed(uki=UKI), EMULATED),
    "hardware-td-direct-kernel": (TD.changed(direct_kernel=DIRECT), HARDWARE),
    "hardware-td-uki": (TD.changed(uki=UKI), replace(HARDWARE, td_can_reset=True)),
    "hardware-td-everything": (
        parse_spec((GOLDEN / "td-everything.yaml").read_bytes(), Path("/specs")),
        replace(HARDWARE, vsock_cid=7, macs={1: "52:54:00:aa:bb:cc"}),
    ),
    "efi-on-kvm": (TD.changed(kind=Kind.EFI), ON_KVM),
    "efi-direct-kernel-on-tcg": (TD.changed(kind=Kind.EFI, direct_kernel=DIRECT), ORDINARY),
    "efi-uki-on-tcg": (TD.changed(kind=Kind.EFI, uki=UKI), ORDINARY),
    "efi-everything-on-kvm": (
        parse_spec((GOLDEN / "efi-everything.yaml").read_bytes(), Path("/specs")),
        replace(ON_KVM, firmware=Path("/fw/OVMF_CODE_4M.fd"), variables=FILES.variables),
    ),
    "legacy-on-tcg": (TD.changed(kind=Kind.LEGACY), BIOS),
    "legacy-on-kvm": (TD.changed(kind=Kind.LEGACY, tpm=True), replace(ON_KVM, firmware=None)),
    "legacy-direct-kernel-on-tcg": (TD.changed(kind=Kind.LEGACY, direct_kernel=DIRECT), BIOS),
}


@pytest.mark.parametrize("name", MACHINES)
def test_command_line_is_as_recorded(name: str) -> None:
    lines = _lines(build_qemu_command(*MACHINES[name], FILES))
    golden = GOLDEN / f"qemu-{name}.txt"
    if os.environ.get("TDX_UPDATE_GOLDEN") == "1":
        golden.write_text(lines)
    assert lines == golden.read_text()


def test_commas_in_paths_are_doubled() -> None:
    argv = build_qemu_command(TD, EMULATED, replace(FILES, runtime=Path("/run/a,b")))
    assert "unix:/run/a,,b/qmp,server=on,wait=off" in argv


def test_overlong_socket_path_is_refused() -> None:
    with pytest.raises(UnavailableError, match="longer than 107 bytes"):
        build_qemu_command(TD, EMULATED, replace(FILES, runtime=Path("/run") / ("x" * 110)))


def test_what_the_chosen_platform_refuses_is_refused() -> None:
    with pytest.raises(MalformedError, match=r"td\.debug: .*DEBUG"):
        build_qemu_command(TD.changed(td=Td(debug=True)), HARDWARE, FILES)


@pytest.mark.parametrize(
    "placement", [replace(EMULATED, silicon=None), replace(HARDWARE, silicon=EMULATED.silicon)]
)
def test_silicon_goes_with_emulated_tds_only(placement: Placement) -> None:
    with pytest.raises(UsageError, match="needs silicon"):
        build_qemu_command(TD, placement, FILES)


def test_a_vsock_device_needs_an_identifier() -> None:
    with pytest.raises(UsageError, match="no CID"):
        build_qemu_command(TD.changed(vsock=Vsock()), HARDWARE, FILES)


def test_a_td_without_firmware_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a TDVF"):
        build_qemu_command(TD, replace(HARDWARE, firmware=None), FILES)


def _lines(argv: list[str]) -> str:
    """One option with its value a line."""
    text = argv[0]
    for word in argv[1:]:
        text += ("\n" if word.startswith("-") else " ") + word
    return text + "\n"
