"""Many machines on one host, and machines with many CPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tdxstack.machine.machine import Machine
from tdxstack.machine.spec_parts import Kind
from tdxstack.testing.acceptance.kinds import ALL, KINDS
from tdxstack.testing.machines import SMALL_MIB, Laboratory

MANY = 11
MOST_VCPUS = 8


def test_coexist(laboratory: Laboratory) -> None:
    """A TD, an EFI and a legacy machine run side by side, and only the TD is one."""

    async def cpu_flags(machine: Machine) -> set[bytes]:
        flags = (await machine.run.aio(["grep", "-m1", "^flags", "/proc/cpuinfo"])).stdout
        assert await machine.state.aio() == "running"
        return set(flags.split())

    flags = laboratory.on_all(ALL, cpu_flags)
    assert {kind for kind in ALL if b"tdx_guest" in flags[kind]} == {Kind.TD}


@pytest.mark.slow
def test_many(laboratory: Laboratory) -> None:
    """Eleven TDs run at once, each is a TD, and all are running in the end."""
    count = min(MANY, available_mib() // SMALL_MIB - 1)
    if count < 2:
        pytest.skip(f"there is memory for {max(count, 0)} TDs of {SMALL_MIB} MiB, not for several")
    with laboratory.small(Kind.TD, count) as machines:
        assert [facts(machine)["td"] for machine in machines] == ["1"] * count
        assert [machine.state() for machine in machines] == ["running"] * count
        assert len({machine.record.pid for machine in machines}) == count
    assert not [machine for machine in machines if machine.is_running]


@pytest.mark.parametrize("kind", KINDS)
def test_vcpus(kind: Kind, laboratory: Laboratory) -> None:
    """A guest with eight vCPUs brings all of them up, and all of a TD's are a TD's."""
    with laboratory.small(kind, vcpus=MOST_VCPUS) as (machine,):
        found = facts(machine)
        assert found["cpus"] == str(MOST_VCPUS)
        assert found["td"] == str(MOST_VCPUS if kind is Kind.TD else 0)


def facts(machine: Machine) -> dict[str, str]:
    """What a small guest has told on its console."""
    lines = [line.split() for line in machine.console_text().splitlines()]
    return {words[0]: words[1] for words in lines if len(words) == 2}


def available_mib() -> int:
    """Memory of this host that can be had without swapping, in MiB (proc_meminfo(5))."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) // 1024
