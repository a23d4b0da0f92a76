"""The memory of a machine, looked at beside that of an ordinary one."""

from __future__ import annotations

from tdxstack.machine.machine import BOOT_SECONDS
from tdxstack.machine.memory_check import DUMP_SECONDS, Look, MemoryCheck, look_for_a_secret
from tdxstack.machine.spec import MIN_MEMORY_MIB, MachineSpec
from tdxstack.machine.spec_parts import Kind
from tdxstack.run import Report, silent
from tdxstack.workflows.machines import Machines

CONTROL = MachineSpec(kind=Kind.LEGACY, vcpus=1, memory=MIN_MEMORY_MIB)
"""An ordinary machine, as small and as quick to start as there is one."""


async def check_memory(
    machines: Machines, name: str, *, timeout: float = DUMP_SECONDS, report: Report = silent
) -> MemoryCheck:
    """Look for secrets in the memory of the machine `name`, and of an ordinary one launched for it.

    Raises as `look_for_a_secret` and `Machines.launch` do.
    """
    machine = machines.open(name)
    machine.require_running()
    report(f"looking into {name}", None)
    subject = await look_for_a_secret(machine, timeout=timeout)
    report("starting an ordinary machine as the control", None)
    control = await _control(machines, timeout)
    return MemoryCheck(subject, control, emulated=machine.record.emulated)


async def _control(machines: Machines, timeout: float) -> Look:
    async with machines.launch(CONTROL) as ordinary:
        await ordinary.wait_for_ssh.aio(timeout=BOOT_SECONDS)
        return await look_for_a_secret(ordinary, timeout=timeout)
