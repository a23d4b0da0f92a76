"""Start a machine as it is written down."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import datetime

from tdxstack.errors import CommandError, UnavailableError
from tdxstack.files import make_private
from tdxstack.interrupts import to_the_end
from tdxstack.machine.instance import end, ended_at_once, ssh_port, start_qemu, until, until_ended
from tdxstack.machine.pinning import pin
from tdxstack.machine.store import MachineFiles, MachineState, MachineStore
from tdxstack.run import Leash, start

TPM_SECONDS = 10.0
ENDING_SECONDS = 1.0
"""How long a QEMU that does not talk any more may take to end."""


async def start_machine(
    store: MachineStore, name: str, now: datetime, *, leash: Leash | None = None
) -> MachineState:
    """Start the QEMU of a machine that was written down, and what it needs; the caller has claimed the name.

    Once it has started, QEMU outlives this process, unless it is on a `leash`; until then it ends with this
    process. Its process id is saved at once, so that it can be ended whatever happens here. Raises as
    `start_qemu` does; everything is ended if anything goes wrong.
    """
    state = store.load(name)
    files = store.files(name)
    make_private(files.runtime)

    def started(pid: int) -> None:
        nonlocal state
        state = replace(state, pid=pid, ssh_port=0, started=now.isoformat(timespec="seconds"))
        store.save(state)

    with _leashed() if leash is None else contextlib.nullcontext(leash) as held:
        async with _quoting(store, state) as holds, _tpm(files, state):
            await start_qemu(files, state.argv, holds=holds, leash=held, on_start=started)
            try:
                async with _in_its_own_words(files):
                    await pin(files.monitor, {int(vcpu): cpus for vcpu, cpus in state.pinning.items()})
                    state = replace(state, ssh_port=await ssh_port(files))
                store.save(state)
            except BaseException:
                await to_the_end(end(files, state.pid))
                raise
    return state


@contextlib.asynccontextmanager
async def _in_its_own_words(files: MachineFiles) -> AsyncIterator[None]:
    """Say why QEMU has ended, where it cannot be talked to for that: it makes the monitor's socket first."""
    try:
        yield
    except UnavailableError as error:
        try:
            await until_ended(files, ENDING_SECONDS)
        except CommandError:
            raise error from None
        raise ended_at_once(files) from None


@contextlib.contextmanager
def _leashed() -> Iterator[Leash]:
    """Ties a program to this process for a block; it lives on if that ends well."""
    leash = Leash()
    try:
        yield leash
    except BaseException:
        leash.cut()
        raise
    leash.release()


@contextlib.asynccontextmanager
async def _quoting(store: MachineStore, state: MachineState) -> AsyncIterator[list[int]]:
    """What QEMU is to hold, so that the quote generation service lasts as long as it needs it."""
    if not state.quoting:
        yield []
        return
    # Here, since ordinary machines do without it.
    from tdxstack.quoting import service

    places = store.directories
    # Need the service before asking for it, so that it cannot go in between; QEMU then goes on needing it.
    with service.Service.of_user(places.runtime).use(state.name) as need:
        await asyncio.to_thread(
            service.ensure_running, places.runtime, places.data / "pki", places.data / "qgs.log"
        )
        yield [need]


@contextlib.asynccontextmanager
async def _tpm(files: MachineFiles, state: MachineState) -> AsyncIterator[None]:
    """The machine's TPM, for QEMU to connect to in the block; swtpm ends by itself when QEMU does."""
    if not state.tpm:
        yield
        return
    make_private(files.tpm_state)
    files.tpm_socket.unlink(missing_ok=True)
    with _leashed() as leash:
        leash.tie(start(state.tpm, log=files.qemu_log, pass_fds=[leash.descriptor]))
        complaint = f"the TPM did not start within {TPM_SECONDS:g} s"
        await until(files.tpm_socket.exists, TPM_SECONDS, complaint, hint=f"see {files.qemu_log}")
        yield
