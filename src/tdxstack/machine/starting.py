"""From a specification to a machine that runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from tdxstack.files import write_atomically
from tdxstack.machine.instance import end, event_log_options, ssh_port, start_qemu
from tdxstack.machine.placement import Placement
from tdxstack.machine.qemu_command import build_qemu_command
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.store import MachineState, MachineStore
from tdxstack.run import Leash


async def start_machine(
    store: MachineStore,
    spec: MachineSpec,
    placement: Placement,
    now: datetime,
    *,
    holds: Sequence[int] = (),
    leash: Leash | None = None,
) -> MachineState:
    """Start QEMU for `spec`; the caller has claimed the name, prepared its files and made its disk overlay.

    QEMU outlives this process, unless it is on a `leash`. It holds the machine's lock, and the file
    descriptors of `holds`, for as long as it lives. What is known of it is saved at once, so that it can be
    ended whatever happens here. Raises as `start_qemu` does; it is ended if anything goes wrong.
    """
    files = store.files(spec.name)
    write_atomically(files.authorized_key, placement.authorized_key.encode() + b"\n")
    argv = [*build_qemu_command(spec, placement, files), *event_log_options(files)]
    state = MachineState(
        name=spec.name,
        platform=placement.platform.value,
        emulated=placement.silicon is not None,
        pid=0,
        ssh_port=0,
        started=now.isoformat(timespec="seconds"),
        argv=argv,
    )

    def started(pid: int) -> None:
        nonlocal state
        state = replace(state, pid=pid)
        store.save(state)

    await start_qemu(files, argv, holds=holds, leash=leash, on_start=started)
    try:
        state = replace(state, ssh_port=await ssh_port(files))
        store.save(state)
    except BaseException:
        await end(files, state.pid)
        raise
    return state
