"""Whether the VMM can read a guest's memory: a secret is planted in it, and looked for in a dump.

The secret goes in over SSH's standard input, so that it is in no argument vector, and is encrypted on its way
through everything that the VMM sees. The dump is read from a pipe as QEMU writes it: it is never on a disk.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from dataclasses import dataclass

from tdxstack.errors import CommandError
from tdxstack.machine.machine import Machine
from tdxstack.qemu import monitor

SECRET_SIZE = 32
PLACE = "/run/tdxstack-secret"
"""In the guest's memory, and nowhere else: a tmpfs."""

DUMP = "tdx-dump"
PIECE = 1 << 20
PLANT_SECONDS = 120.0
DUMP_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at one machine's memory has shown."""

    machine: str
    found: bool
    searched: int
    """Bytes that QEMU gave out."""


@dataclass(frozen=True, slots=True)
class MemoryCheck:
    """A machine that was looked at, beside an ordinary one as the control."""

    subject: Look
    control: Look
    emulated: bool

    @property
    def closed(self) -> bool:
        """Whether the VMM cannot read the machine's memory, by a method that reads an ordinary one's."""
        return self.control.found and not self.subject.found

    @property
    def meaning(self) -> str:
        """What that proves, and what it does not."""
        if not self.control.found:
            return "nothing: the secret was not found in the ordinary machine either, the method has failed"
        if not self.subject.found:
            return (
                "the VMM cannot read this machine's memory: QEMU's dump has the ordinary machine's secret "
                "and not this one's; that it is encrypted in DRAM is not shown by this"
            )
        why = "the TD is emulated, and an emulated TD is not protected" if self.emulated else "it is no TD"
        return f"the VMM can read this machine's memory: {why}"

    def to_json(self) -> dict[str, object]:
        looks = {"machine": self.subject, "control": self.control}
        told = {
            key: {"name": look.machine, "found": look.found, "searched": look.searched}
            for key, look in looks.items()
        }
        return {"closed": self.closed, "emulated": self.emulated, "meaning": self.meaning, **told}


async def look_for_a_secret(machine: Machine, *, timeout: float = DUMP_SECONDS) -> Look:
    """Plant a new secret in a guest that can be entered, and look for it in QEMU's dump of its memory.

    The guest stands still while it is dumped. Raises as `Machine.run` does, and `CommandError` where QEMU
    gives no dump within `timeout` seconds.
    """
    secret = secrets.token_bytes(SECRET_SIZE)
    plant = ["sh", "-c", f"umask 077; cat > {PLACE}"]
    await machine.run.aio(plant, input=secret, timeout=PLANT_SECONDS)
    try:
        found, searched = await _search(machine, secret, timeout)
    finally:
        await machine.run.aio(["rm", "-f", PLACE], timeout=PLANT_SECONDS)
    return Look(machine.name, found, searched)


async def _search(machine: Machine, secret: bytes, timeout: float) -> tuple[bool, int]:
    reading, writing = os.pipe()
    search = asyncio.create_task(_read(reading, secret))
    try:
        async with asyncio.timeout(timeout), monitor.connect(machine.files.monitor) as connection:
            try:
                await connection.give_file(DUMP, writing)
            finally:
                os.close(writing)
            arguments = {"paging": False, "protocol": f"fd:{DUMP}"}
            await connection.execute("dump-guest-memory", arguments, timeout=timeout)
            # QEMU lets go of its end with the dump.
            return await search
    except TimeoutError:
        raise CommandError(
            f"QEMU did not dump the memory of machine {machine.name!r} within {timeout:g} s"
        ) from None
    finally:
        search.cancel()
        await asyncio.wait([search])


async def _read(descriptor: int, secret: bytes) -> tuple[bool, int]:
    """Whether `secret` is in what comes through the pipe, and how many bytes came; all of it is read."""
    found, total, rest = False, 0, b""
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        reader = asyncio.StreamReader(PIECE)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            while piece := await reader.read(PIECE):
                total += len(piece)
                found = found or secret in rest + piece
                rest = (rest + piece)[1 - len(secret) :]
        finally:
            transport.close()
    return found, total
