"""KubeVirt's VirtualMachines, kept as text beside this file. Set TDX_UPDATE_GOLDEN=1 to write them anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from tdxstack.errors import UsageError
from tdxstack.machine.kubevirt import build_virtual_machine
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import (
    Console,
    Cpu,
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
from tdxstack.machine.spec_values import NoService
from tdxstack.platform import Platform

GOLDEN = Path(__file__).parent
TD = MachineSpec(name="td")
EFI = TD.changed(name="efi", kind=Kind.EFI)
MACHINES = {
    "td": TD,
    "efi-everything": EFI.changed(
        image=Disk(path=Path("/images/web.qcow2")),
        disks=(Disk(path=Path("/images/tools.iso"), read_only=True, serial="tools"),),
        vcpus=8,
        topology=Topology(sockets=2, cores=2, threads=2),
        memory=4096,
        huge_pages="1G",
        smm=True,
        tpm=True,
        vsock=Vsock(),
        guest_agent=True,
        cpu=Cpu(model="Skylake-Server", features={"avx512f": False, "aes": True}),
        nics=(Nic(mac="52:54:00:12:34:56", forwards=(Forward(host=8080, guest=80),)),),
    ),
    "legacy-alone": TD.changed(name="legacy", kind=Kind.LEGACY, diskless=True, nics=()),
}


@pytest.mark.parametrize("name", MACHINES)
def test_virtual_machine_is_as_recorded(name: str) -> None:
    text = build_virtual_machine(MACHINES[name])
    golden = GOLDEN / f"kubevirt-{name}.yaml"
    if os.environ.get("TDX_UPDATE_GOLDEN") == "1":
        golden.write_text(text)
    assert text == golden.read_text()


def test_a_td_says_so_and_nothing_more() -> None:
    domain = yaml.safe_load(build_virtual_machine(TD))["spec"]["template"]["spec"]["domain"]
    assert domain["launchSecurity"] == {"tdx": {}}
    assert domain["firmware"] == {"bootloader": {"efi": {"secureBoot": False}}}
    assert "features" not in domain


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (TD.changed(platform=Platform.EMULATED), "platform: TDs of a cluster run on TDX hardware"),
        (TD.changed(td=Td(mrconfigid=b"\1" * 48)), "td.mrconfigid: launchSecurity.tdx has no settings"),
        (TD.changed(td=Td(sept_ve_disable=False)), "td.sept_ve_disable: "),
        (TD.changed(td=Td(quote_service=NoService())), "td.quote_service: "),
        (TD.changed(firmware=Path("/fw.fd")), "firmware: "),
        (TD.changed(uki=UnifiedKernel(image=Path("/uki.efi"))), "uki: .* container image only"),
        (EFI.changed(machine_type="pc"), "machine_type: KubeVirt has q35 machines, not pc"),
        (TD.changed(console=Console.VIRTIO), "console: "),
        (EFI.changed(cpu=Cpu(model="max")), "cpu.model: "),
        (TD.changed(cpu=Cpu(tsc_frequency=1_000_000_000)), "cpu.tsc_frequency: "),
        (TD.changed(pinning={0: (1,)}), "pinning: "),
        (TD.changed(numa=(NumaNode(vcpus=(0, 1), memory=2048),)), "numa: "),
        (TD.changed(vsock=Vsock(cid=5)), "vsock.cid: "),
        (EFI.changed(sgx=(EpcSection(size=64),)), "sgx: "),
        (TD.changed(smbios=Smbios(system={"serial": "1"})), "smbios: "),
        (TD.changed(fw_cfg=(FwCfgItem(name="opt/a", text="b"),)), "fw_cfg: "),
        (TD.changed(vfio=("01:00.0",)), "vfio: "),
        (EFI.changed(pic=False), "pic: "),
        (TD.changed(nics=(Nic(type="bridge", bridge="br0"),)), "nics.0: other networks"),
        (TD.changed(nics=(Nic(), Nic())), "nics.1: a machine joins"),
    ],
)
def test_what_kubevirt_cannot_do_is_refused_with_the_reason(machine: MachineSpec, reason: str) -> None:
    with pytest.raises(UsageError, match=f"KubeVirt cannot run machine '{machine.name}': {reason}"):
        build_virtual_machine(machine)
