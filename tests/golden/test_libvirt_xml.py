"""libvirt's domain XML, kept as text beside this file. Set TDX_UPDATE_GOLDEN=1 to write it anew.

tests/e2e/test_libvirt.py holds these files against libvirt's own schema and parser.
"""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import count

import pytest

from tdxstack.errors import MalformedError, UsageError
from tdxstack.machine.libvirt_xml import DomainPlacement, build_domain_xml, fix_ports
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import Cpu, Disk, EpcSection, Forward, Nic, Td
from tdxstack.machine.spec_values import VsockAddress
from tests.golden.libvirt_machines import EFI, FOUND, HARDWARE, MACHINES, TCG, TD, path


@pytest.mark.parametrize("name", MACHINES)
def test_domain_xml_is_as_recorded(name: str) -> None:
    xml = build_domain_xml(*MACHINES[name])
    golden = path(name)
    if os.environ.get("TDX_UPDATE_GOLDEN") == "1":
        golden.write_text(xml)
    assert xml == golden.read_text()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"td": Td(quote_service=VsockAddress(2, 4050))}, "td.quote_service: .* unix socket only"),
        ({"td": Td(pks=True)}, "td.pks: "),
        ({"td": Td(perfmon=True)}, "td.perfmon: "),
        ({"pic": False}, "pic: "),
        ({"nics": (Nic(forwards=(Forward(guest=22),)),)}, "nics.0.forwards: .* numbers"),
    ],
)
def test_what_libvirt_cannot_do_is_refused_with_the_reason(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=f"libvirt cannot run machine 'td': {reason}"):
        build_domain_xml(TD.changed(**changes), HARDWARE)


def test_an_emulated_td_is_refused() -> None:
    with pytest.raises(UsageError, match="TDs on KVM only"):
        build_domain_xml(TD, TCG)


def test_epc_sections_that_are_not_allocated_are_refused() -> None:
    with pytest.raises(UsageError, match=r"sgx\.1\.prealloc"):
        build_domain_xml(EFI.changed(sgx=(EpcSection(size=1), EpcSection(size=1, prealloc=False))), FOUND)


def test_everything_that_is_refused_is_told_at_once() -> None:
    with pytest.raises(UsageError, match=r"td\.pks: .*; pic: "):
        build_domain_xml(TD.changed(td=Td(pks=True), pic=False), HARDWARE)


def test_what_the_platform_refuses_is_refused_here_too() -> None:
    with pytest.raises(MalformedError, match="debug"):
        build_domain_xml(TD.changed(td=Td(debug=True)), HARDWARE)


def test_relative_paths_are_refused() -> None:
    relative = TD.changed(disks=(Disk.model_validate({"path": "data.raw", "overlay": False}),))
    with pytest.raises(UsageError, match=r"path data\.raw"):
        build_domain_xml(relative, _with_disks(relative))


def test_disks_have_letters() -> None:
    disks = tuple(Disk.model_validate({"path": f"/{number}.raw", "overlay": False}) for number in range(28))
    machine = TD.changed(disks=disks)
    xml = build_domain_xml(machine, _with_disks(machine))
    for name in ("vda", "vdz", "vdaa", "vdac"):
        assert f'dev="{name}"' in xml


def test_a_cpu_without_model_is_all_that_the_accelerator_has() -> None:
    cpu = EFI.changed(cpu=Cpu(model="max"))
    assert '<cpu mode="maximum" />' in build_domain_xml(cpu, FOUND)
    assert '<cpu mode="maximum" />' in build_domain_xml(EFI, TCG)
    assert '<cpu mode="host-passthrough" />' in build_domain_xml(EFI, FOUND)


def test_ports_left_to_choice_are_chosen_and_ssh_is_forwarded_once() -> None:
    numbers = count(2000)

    def free_port() -> int:
        return next(numbers)

    def forwards(*nics: Nic) -> list[list[tuple[int, int]]]:
        fixed = fix_ports(MachineSpec(name="td", nics=nics), free_port)
        return [[(forward.host, forward.guest) for forward in nic.forwards] for nic in fixed.nics]

    assert forwards(Nic()) == [[(2000, 22)]]
    assert forwards(Nic(forwards=(Forward(host=22, guest=22),))) == [[(22, 22)]]
    assert forwards(Nic(forwards=(Forward(guest=80), Forward(guest=22)))) == [[(2001, 80), (2002, 22)]]
    assert forwards(Nic(type="bridge", bridge="br0"), Nic(), Nic()) == [[], [(2003, 22)], []]


def _with_disks(spec: MachineSpec) -> DomainPlacement:
    return replace(HARDWARE, disks=(*HARDWARE.disks, *(disk.path for disk in spec.disks)))
