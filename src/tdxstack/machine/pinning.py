"""Which CPUs of the host a machine's vCPUs run on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tdxstack.errors import UnavailableError
from tdxstack.qemu import monitor


async def pin(socket: Path, pinning: Mapping[int, Sequence[int]]) -> None:
    """Bind the threads of vCPUs to CPUs of the host; `socket` is the monitor of the running machine.

    Raises `UnavailableError` where the host does not let one be bound so, as `monitor` does where QEMU does
    not answer.
    """
    if not pinning:
        return
    async with monitor.connect(socket) as connection:
        vcpus = await connection.execute("query-cpus-fast")
    pin_threads({vcpu["cpu-index"]: vcpu["thread-id"] for vcpu in vcpus}, pinning)


def pin_threads(threads: Mapping[int, int], pinning: Mapping[int, Sequence[int]]) -> None:
    """Bind threads, by the number of their vCPU, to CPUs of the host; raises as `pin` does."""
    for vcpu, cpus in pinning.items():
        try:
            os.sched_setaffinity(threads[vcpu], cpus)
        except OSError as error:
            numbers = ", ".join(str(cpu) for cpu in cpus)
            raise UnavailableError(
                f"vCPU {vcpu} cannot be bound to the host's CPU {numbers}: {error.strerror}",
                hint=f"see /sys/devices/system/cpu/online, and change pinning[{vcpu}]",
            ) from None
