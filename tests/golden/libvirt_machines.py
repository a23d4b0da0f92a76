"""The machines whose domain XML is kept: every kind, every boot mode, every device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tdxstack.machine.libvirt_xml import DomainPlacement
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import (
    Console,
    Cpu,
    DirectKernel,
    Disk,
    EpcSection,
    Forward,
    FwCfgItem,
    Kind,
    Nic,
    NumaNode,
    Smbios,
    Td,
    Topology,
    UnifiedKernel,
    Vsock,
)
from tdxstack.machine.spec_values import NoService, UnixAddress
from tdxstack.platform import Platform

GOLDEN = Path(__file__).parent
DISK = Path("/var/lib/tdx/td/disk.qcow2")
HARDWARE = DomainPlacement(
    platform=Platform.HARDWARE,
    authorized_key="ssh-ed25519 AAAA tdx",
    disks=(DISK,),
    firmware=Path("/fw/OVMF.inteltdx.ms.fd"),
)
TCG = replace(HARDWARE, platform=Platform.EMULATED)
FOUND = replace(HARDWARE, firmware=None)
SSH = Nic(forwards=(Forward(host=2222, guest=22),))
TD = MachineSpec(name="td", nics=(SSH,))
EFI = TD.changed(name="efi", kind=Kind.EFI)
LEGACY = TD.changed(name="legacy", kind=Kind.LEGACY)
KERNEL = DirectKernel(
    kernel=Path("/boot/vmlinuz"),
    initrd=Path("/boot/initrd.img"),
    command_line="console=ttyS0 quiet",
    set={"console": "hvc0"},
    remove=("quiet",),
)
MACHINES: dict[str, tuple[MachineSpec, DomainPlacement]] = {
    "td": (TD, HARDWARE),
    "td-direct-kernel": (
        TD.changed(direct_kernel=KERNEL, console=Console.VIRTIO, td=Td(quote_service=NoService())),
        replace(HARDWARE, emulator=Path("/opt/qemu-system-x86_64"), console_log=Path("/var/log/td.log")),
    ),
    "td-everything": (
        TD.changed(
            vcpus=4,
            memory=8192,
            topology=Topology(sockets=2, cores=2),
            cpu=Cpu(features={"pmu": False, "avx512f": False}, tsc_frequency=1_000_000_000),
            pinning={0: (2,), 1: (3, 4, 5, 8)},
            numa=(
                NumaNode(vcpus=(0, 1), memory=4096, host_nodes=(0,)),
                NumaNode(vcpus=(2, 3), memory=4096, host_nodes=(1,)),
            ),
            td=Td(
                mrconfigid=b"\1" * 48,
                mrowner=b"\2" * 48,
                mrownerconfig=b"\3" * 48,
                quote_service=UnixAddress(Path("/run/other/qgs.sock")),
            ),
            nics=(
                SSH.model_copy(update={"mac": "52:54:00:12:34:56"}),
                Nic(type="bridge", bridge="br0"),
                Nic(type="tap", interface="tap7"),
            ),
            vsock=Vsock(cid=7),
            guest_agent=True,
            vfio=("01:00.0", "0001:02:1f.7"),
        ),
        FOUND,
    ),
    "td-uki": (TD.changed(uki=UnifiedKernel(image=Path("/boot/linux.efi"))), FOUND),
    "efi": (EFI, FOUND),
    "efi-direct-kernel-on-tcg": (EFI.changed(direct_kernel=KERNEL), TCG),
    "efi-everything": (
        EFI.changed(
            firmware=Path("/fw/OVMF_CODE.fd"),
            firmware_variables=Path("/fw/OVMF_VARS.fd"),
            smm=True,
            huge_pages="2M",
            tpm=True,
            vsock=Vsock(),
            cpu=Cpu(model="Skylake-Server"),
            disks=(
                Disk(path=Path("/images/data.raw"), overlay=False, serial="data"),
                Disk(path=Path("/images/tools.iso"), read_only=True),
            ),
            smbios=Smbios(
                bios={"vendor": "tdx"},
                system={"serial": "1", "family": "<&>"},
                board={"asset": "2"},
                chassis={"sku": "3"},
                oem_strings=("one", "two"),
            ),
            fw_cfg=(
                FwCfgItem(name="opt/a/text", text="b & c"),
                FwCfgItem(name="opt/a/file", file=Path("/etc/hostname")),
            ),
        ),
        replace(
            HARDWARE,
            firmware=Path("/fw/OVMF_CODE.fd"),
            disks=(DISK, Path("/images/data.raw"), Path("/images/tools.iso")),
        ),
    ),
    "efi-sgx": (EFI.changed(sgx=(EpcSection(size=64), EpcSection(size=32))), FOUND),
    "efi-uki-diskless": (
        EFI.changed(uki=UnifiedKernel(image=Path("/boot/linux.efi"), command_line="quiet"), diskless=True),
        replace(FOUND, disks=()),
    ),
    "legacy": (LEGACY.changed(machine_type="pc"), replace(FOUND, disks=(DISK,))),
    "legacy-direct-kernel-on-tcg": (
        LEGACY.changed(direct_kernel=KERNEL, nics=(), cpu=Cpu(model="Nehalem")),
        replace(FOUND, platform=Platform.EMULATED),
    ),
}


def path(name: str) -> Path:
    return GOLDEN / f"libvirt-{name}.xml"
