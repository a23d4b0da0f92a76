"""The machines that tests use: one of each kind for all, and small ones that are up within seconds."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from tdxstack import interrupts
from tdxstack.image.recipe import ImageRecipe
from tdxstack.machine import readiness
from tdxstack.machine.machine import Machine
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import DirectKernel, Disk, DiskFormat, Forward, Kind, Nic
from tdxstack.platform import PlatformChoice
from tdxstack.qemu import monitor
from tdxstack.testing.small_guest import small_guest
from tdxstack.workflows.image_kernel import take_kernel
from tdxstack.workflows.machines import Machines
from tdxstack.workflows.workshop import Surroundings, Workshop

BOOT_SECONDS = 600.0
"""More than any guest takes on a host that does much else."""

MONITOR_SECONDS = 20.0
SERVICE_PORT = 8080
"""Of a guest: a port of the host leads to it, see `Laboratory.port_to`."""

GUEST_MIB = 1024
SMALL_MIB = 512

RECIPE = ImageRecipe(
    name="acceptance", packages=["nginx-light", "redis-server", "redis-tools"], guest_agent=True
)
"""What the guests of the tests have besides what every guest has."""

T = TypeVar("T")


class Laboratory:
    """Makes machines in `where`'s directories, and removes those that are not shared.

    `setup_firmware` is TDVF that verifies nothing, as the small guests' kernels come without a shim.
    """

    def __init__(
        self, where: Surroundings, choice: PlatformChoice, setup_firmware: Path, directory: Path
    ) -> None:
        self._machines = Machines(where)
        self._workshop = Workshop(where)
        self._platform = choice.platform
        self._setup_firmware = setup_firmware
        self._directory = directory

    def shared(self, kind: Kind) -> Machine:
        """The machine of that kind that all tests share: running, and ready to be entered."""

        async def itself(machine: Machine) -> Machine:
            return machine

        return self.on_all([kind], itself)[kind]

    def on_all(self, kinds: Sequence[Kind], work: Callable[[Machine], Awaitable[T]]) -> dict[Kind, T]:
        """What `work` gives for the shared machines of `kinds`, at the same time."""

        # Made before any is started, as that takes its time and waits for nothing.
        machines = [self._shared(kind) for kind in kinds]

        async def one(machine: Machine) -> T:
            if not machine.is_running:
                await self.start(machine)
            return await work(machine)

        async def all_of_them() -> list[T]:
            return await asyncio.gather(*(one(machine) for machine in machines))

        return dict(zip(kinds, interrupts.wait(all_of_them), strict=True))

    async def start(self, machine: Machine) -> None:
        """Start a machine that has ended, with the disk that it had, and wait until it can be entered."""
        await machine.start.aio()
        await machine.wait_for_ssh.aio(timeout=BOOT_SECONDS)

    def spec(self, kind: Kind, name: str, **fields: object) -> MachineSpec:
        """A machine with all that the tests use; `fields` say what it has besides."""
        return MachineSpec(
            name=name,
            kind=kind,
            platform=self._platform,
            image=Disk(path=self._image, format=DiskFormat.QCOW2),
            # The image has boot loaders for EFI only.
            direct_kernel=self._image_kernel if kind is Kind.LEGACY else None,
            vcpus=1,
            memory=GUEST_MIB,
            nics=(Nic(forwards=(Forward(guest=SERVICE_PORT),)),),
            guest_agent=True,
        ).changed(**fields)

    @contextlib.contextmanager
    def guest(self, spec: MachineSpec) -> Iterator[Machine]:
        """A machine of a test's own, ready to be entered."""
        with self._made([spec]) as (machine,):
            interrupts.wait(lambda: self.start(machine))
            yield machine

    @contextlib.contextmanager
    def small(self, kind: Kind, count: int = 1, **fields: object) -> Iterator[list[Machine]]:
        """Small machines that have started together and told their facts on the console (`small_guest`).

        `fields` say what they have besides one vCPU.
        """
        specs = [
            MachineSpec(
                name=f"small-{kind.value}-{number}",
                kind=kind,
                platform=self._platform,
                firmware=None if kind is Kind.LEGACY else self._setup_firmware,
                direct_kernel=self._small_guest,
                vcpus=1,
                memory=SMALL_MIB,
                nics=(),
                diskless=True,
            ).changed(**fields)
            for number in range(count)
        ]

        async def told(machine: Machine) -> None:
            await machine.start.aio()
            await readiness.until_ready(machine.files, 0, BOOT_SECONDS)

        async def all_of_them(machines: list[Machine]) -> None:
            await asyncio.gather(*(told(machine) for machine in machines))

        with self._made(specs) as machines:
            interrupts.wait(lambda: all_of_them(machines))
            yield machines

    def port_to(self, machine: Machine, port: int) -> int:
        """The host's TCP port that leads to a port of the guest, as QEMU tells it."""

        async def ask() -> str:
            async with monitor.connect(machine.files.monitor, MONITOR_SECONDS) as connection:
                words: dict[str, object] = {"command-line": "info usernet"}
                return str(await connection.execute("human-monitor-command", words))

        text = interrupts.wait(ask)
        found = re.search(rf"TCP\[HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)\s+\S+\s+{port}\b", text)
        assert found, text
        return int(found[1])

    def _shared(self, kind: Kind) -> Machine:
        name = f"shared-{kind.value}"
        made = name in self._machines.names()
        return self._machines.open(name) if made else self._machines.create(self.spec(kind, name))

    @contextlib.contextmanager
    def _made(self, specs: Sequence[MachineSpec]) -> Iterator[list[Machine]]:
        with contextlib.ExitStack() as made:
            machines = []
            for spec in specs:
                machine = self._machines.create(spec)
                made.callback(machine.remove)
                machines.append(machine)
            yield machines

    @cached_property
    def _image(self) -> Path:
        return self._workshop.image(RECIPE).path

    @cached_property
    def _image_kernel(self) -> DirectKernel:
        return take_kernel(self._workshop.image(RECIPE), self._directory)

    @cached_property
    def _small_guest(self) -> DirectKernel:
        return small_guest(self._workshop, self._directory)
