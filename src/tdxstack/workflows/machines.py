"""The machines of one user: made, launched for a while, found, and ready to be controlled."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType

from tdxstack import interrupts
from tdxstack.errors import TdxError, UnavailableError, UsageError
from tdxstack.files import is_locked, lock, write_atomically
from tdxstack.host_access import vsock_cid_is_free
from tdxstack.image.built import Image
from tdxstack.machine import control
from tdxstack.machine.allocation import Allocation, allocate, check_ports, foresee
from tdxstack.machine.control import StopMode
from tdxstack.machine.instance import until
from tdxstack.machine.machine import DOWN_SECONDS, Machine
from tdxstack.machine.named_files import check_files
from tdxstack.machine.placement import EmulatedSilicon, Placement
from tdxstack.machine.qemu_lacks import check_qemu
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_file import write_spec
from tdxstack.machine.spec_parts import Disk, Kind
from tdxstack.machine.spec_values import QuoteAddress, UnixAddress
from tdxstack.machine.starting import start_machine
from tdxstack.machine.store import MachineFiles, MachineState, MachineStore
from tdxstack.machine.twin import wait
from tdxstack.machine.written import state_of
from tdxstack.platform import Platform, choose_platform
from tdxstack.qemu.kvm_probe import choose_ordinary_platform
from tdxstack.quoting.pki import Pki, open_pki
from tdxstack.quoting.service import Service
from tdxstack.run import Leash, Report, command_line, silent
from tdxstack.workflows.image_kernel import kernel_in, take_kernel
from tdxstack.workflows.workshop import DiskImage, Surroundings, Workshop

INTEL_QGS_SOCKET = Path("/var/run/tdx-qgs/qgs.socket")
"""Where Intel's tdx-qgs package listens when it is configured for a unix socket."""

NO_KASLR = "nokaslr"
QCOW2_MAGIC = b"QFI\xfb"
RELEASE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Base:
    """The disk image that a machine starts from."""

    path: Path
    format: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A machine that could be made: what it is to be, with what it would run, and from which disk."""

    spec: MachineSpec
    placement: Placement
    """Without the key that may enter."""
    bases: Mapping[int, DiskImage]
    """What its overlays read from, by the number of the disk."""
    kernel_of: Image | None = None
    """The image whose kernel is to be booted directly."""
    kernel_arguments: tuple[str, ...] = ()
    """What that kernel is told besides."""


class Machines:
    """All machines in `where`'s directories; missing parts are fetched or built when they are needed."""

    def __init__(
        self, where: Surroundings, *, workshop: Workshop | None = None, report: Report = silent
    ) -> None:
        self.store = MachineStore(where.directories)
        self._where = where
        self._workshop = workshop or Workshop(where, report=report)
        self._report = report
        self._ordinary: dict[Platform | None, Platform] = {}
        """Where machines that are no TDs run, by what was asked for: found out once."""
        self._planning = threading.Lock()

    def now(self) -> datetime:
        """The time, where the machines are."""
        return self._where.clock()

    def names(self) -> list[str]:
        """The machines there are, running or not."""
        return self.store.names()

    def open(self, name: str) -> Machine:
        """The machine `name`. Raises `UsageError` where there is none."""
        self.store.require(name)
        return self.machine(name)

    def create(self, spec: MachineSpec, *, no_kaslr: bool = False) -> Machine:
        """Make a machine, not running, whose disk and state last until it is removed.

        With `no_kaslr` its image's kernel is booted directly, at the addresses that its symbols have.
        Raises `UsageError` where there is one of that name, and the parts' own errors; nothing is left then.
        """
        if not spec.name:
            raise UsageError("the machine has no name", hint="give it one: name in its specification")
        self.refuse_taken(spec.name)
        plan = self.plan(spec, no_kaslr=no_kaslr)
        with self.store.claim(spec.name):
            self.refuse_taken(spec.name)
            self.write_down(plan)
        return self.machine(spec.name)

    def launch(self, spec: MachineSpec) -> Launch:
        """A machine that runs as long as a `with` block, or `async with`, and leaves nothing.

        It ends with the block, however that is left, and with this process, however it ends. Without a name
        it is given one. Entering raises as `create` and `Machine.start` do.
        """
        return Launch(self, spec if spec.name else spec.changed(name=f"vm-{secrets.token_hex(3)}"))

    async def sweep(self) -> None:
        """Remove the launched machines of processes that were killed."""
        for name in self.names():
            with contextlib.suppress(TdxError):
                if self._is_abandoned(name):
                    await self._remove_abandoned(name)

    def _is_abandoned(self, name: str) -> bool:
        return self.store.load(name).autodestroy and not is_locked(self.store.files(name).owner)

    async def _remove_abandoned(self, name: str) -> None:
        with self.store.claim(name):
            # Until it was claimed, somebody else may have removed it, and made another.
            if self._is_abandoned(name):
                await control.stop(self.store, name, StopMode.FORCE, DOWN_SECONDS)
                self.store.remove(name)

    def plan(self, spec: MachineSpec, *, no_kaslr: bool = False) -> Plan:
        """Choose, find, fetch or build everything that is not the machine's own."""
        # One at a time: what one has asked and found, the next need not.
        with self._planning:
            return self._plan(spec, no_kaslr)

    def _plan(self, spec: MachineSpec, no_kaslr: bool) -> Plan:
        check_files(spec)
        check_ports(spec)
        platform, qemu = self._platform(spec)
        spec = spec.on(platform)
        check_qemu(spec, platform, self._workshop.abilities(qemu))
        image = self._workshop.image() if spec.image is None and not spec.diskless else None
        bases = _bases(spec)
        if image is not None:
            bases[0] = image
        pki = self._pki() if spec.kind is Kind.TD and platform is Platform.EMULATED else None
        placement = Placement(
            platform=platform,
            qemu=qemu,
            firmware=self._firmware(spec),
            authorized_key="",
            silicon=silicon(pki) if pki else None,
            quote_service=self.quote_service(platform) if spec.kind is Kind.TD else None,
            td_can_reset=platform is Platform.HARDWARE and self._workshop.abilities(qemu).td_can_reset,
        )
        # Our image has boot loaders for UEFI only.
        direct = (spec.kind is Kind.LEGACY or no_kaslr) and spec.direct_kernel is None
        if no_kaslr and (image is None or not direct):
            raise UsageError(
                "only the kernel of tdx's own image can be given nokaslr here",
                hint="put it on the command line of your kernel: direct_kernel.set.nokaslr",
            )
        return Plan(spec, placement, bases, image if direct else None, (NO_KASLR,) if no_kaslr else ())

    def steps(self, plan: Plan) -> list[str]:
        """What `write_down` and a start would do, as commands."""
        files = self.store.files(plan.spec.name)
        steps = [command_line(self._workshop.ssh_key_command(files.ssh_key))]
        for number, base in plan.bases.items():
            steps.append(command_line(self._workshop.overlay_command(base, files.overlay(number))))
        if plan.kernel_of is not None:
            kernel = kernel_in(plan.kernel_of, files.directory, *plan.kernel_arguments)
            steps.append(f"take {kernel.kernel} and {kernel.initrd} out of {plan.kernel_of.path}")
        if plan.spec.firmware_variables is not None:
            steps.append(f"copy {plan.spec.firmware_variables} to {files.variables}")
        if plan.spec.tpm:
            steps.append(command_line(self._tpm(files)))
        return [*steps, command_line(self.command(plan))]

    def command(self, plan: Plan) -> list[str]:
        """The QEMU command that a start would run."""
        files, spec = self.store.files(plan.spec.name), plan.spec
        if plan.kernel_of is not None:
            spec = spec.changed(
                direct_kernel=kernel_in(plan.kernel_of, files.directory, *plan.kernel_arguments)
            )
        placement = _with_own(plan.placement, spec, files, foresee(self.store, spec))
        return state_of(spec, placement, files).argv

    def write_down(self, plan: Plan, *, autodestroy: bool = False) -> MachineState:
        """Make the files of a machine whose name the caller has claimed; all of them, or none."""
        name = plan.spec.name
        self.store.clear_unfinished()
        try:
            return self._write_down(plan, self.store.prepare(name), autodestroy)
        except BaseException:
            self.store.remove(name)
            raise

    def quote_service(self, platform: Platform) -> QuoteAddress:
        """The platform's own."""
        if platform is Platform.EMULATED:
            return UnixAddress(Service.of_user(self._where.directories.runtime).socket)
        return UnixAddress(INTEL_QGS_SOCKET)

    def refuse_taken(self, name: str) -> None:
        """Raise `UsageError` where there is a machine of that name."""
        if self.store.files(name).state.exists():
            raise UsageError(
                f"there is a machine {name!r} already",
                hint=f"start it: tdx vm start {name}; remove it: tdx vm rm {name}; or take another name",
            )

    def _write_down(self, plan: Plan, files: MachineFiles, autodestroy: bool) -> MachineState:
        spec, placement = plan.spec, plan.placement
        placement = replace(placement, authorized_key=self._workshop.ssh_key(files.ssh_key))
        if spec.firmware_variables is not None:
            write_atomically(files.variables, spec.firmware_variables.read_bytes(), mode=0o600)
        write_atomically(files.authorized_key, placement.authorized_key.encode() + b"\n")
        write_atomically(files.spec, write_spec(spec), mode=0o600)
        for number, base in plan.bases.items():
            self._workshop.overlay(base, files.overlay(number))
        if plan.kernel_of is not None:
            spec = spec.changed(
                direct_kernel=take_kernel(plan.kernel_of, files.directory, *plan.kernel_arguments)
            )
        with allocate(self.store, spec, vsock_cid_is_free) as own:
            state = state_of(spec, _with_own(placement, spec, files, own), files)
            state = replace(state, tpm=self._tpm(files) if spec.tpm else [], autodestroy=autodestroy)
            self.store.save(state)
        return state

    def machine(self, name: str, leash: Leash | None = None) -> Machine:
        """A machine that is about to be made, or may not be there."""
        return Machine(self.store, name, self._workshop.program, self.now, leash)

    def _platform(self, spec: MachineSpec) -> tuple[Platform, tuple[str, ...]]:
        """Where the machine runs, and the QEMU that runs it."""
        if spec.kind is Kind.TD:
            if choose_platform(self._where.host, spec.platform).emulated:
                return Platform.EMULATED, tuple(self._workshop.emulator().argv_prefix)
            return Platform.HARDWARE, (self._workshop.host_qemu(),)
        qemu = self._workshop.ordinary_qemu()
        if spec.platform not in self._ordinary:
            choice = choose_ordinary_platform(qemu, spec.platform)
            self._ordinary[spec.platform] = choice.platform
            if choice.emulated and spec.platform is None:
                self._report(f"the machine runs on TCG: {choice.reason}", None)
        return self._ordinary[spec.platform], qemu

    def _firmware(self, spec: MachineSpec) -> Path | None:
        if spec.kind is Kind.LEGACY or (spec.kind is Kind.EFI and spec.firmware is not None):
            return spec.firmware
        return self._workshop.firmware(spec.firmware).path

    def _pki(self) -> Pki:
        return open_pki(self._where.directories.data / "pki", self._where.clock())

    def _tpm(self, files: MachineFiles) -> list[str]:
        # fmt: off
        return [
            *self._workshop.program("swtpm"), "socket", "--tpm2", "--terminate",
            "--tpmstate", f"dir={files.tpm_state},mode=0600",
            "--ctrl", f"type=unixio,path={files.tpm_socket},mode=0600",
        ]
        # fmt: on


class Launch:
    """A machine for a block; see `Machines.launch`."""

    def __init__(self, machines: Machines, spec: MachineSpec) -> None:
        self._machines = machines
        self._spec = spec
        self._owned = contextlib.ExitStack()
        self._leash: Leash | None = None
        self._mine = False
        """Whether the name is this launch's, so that what is under it may be removed."""

    def __enter__(self) -> Machine:
        plan = self._machines.plan(self._spec)
        try:
            return wait(lambda: self._open(plan), "launch")
        except BaseException:
            # An interrupt may come when all is done, and before the block is entered.
            self._leave()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._leave()
        except KeyboardInterrupt:
            # It may have come before it was held back.
            self._leave()
            raise

    async def __aenter__(self) -> Machine:
        plan = await asyncio.to_thread(self._machines.plan, self._spec)
        try:
            return await self._open(plan)
        except BaseException:
            await self._close()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _open(self, plan: Plan) -> Machine:
        name, store = self._spec.name, self._machines.store
        await self._machines.sweep()
        with store.claim(name):
            self._machines.refuse_taken(name)
            self._mine, self._leash = True, Leash()
            self._machines.write_down(plan, autodestroy=True)
            self._owned.enter_context(lock(store.files(name).owner, wait=False))
            await start_machine(store, name, self._machines.now(), leash=self._leash)
        return self._machines.machine(name, self._leash)

    def _leave(self) -> None:
        with interrupts.hold():
            wait(self._close, "launch")

    async def _close(self) -> None:
        """End and remove the machine, if there is one by now; may be called again. It is not cancelled."""
        await interrupts.to_the_end(self._end())

    async def _end(self) -> None:
        if self._leash is not None:
            self._leash.cut()
        if not self._mine:
            return
        name, store = self._spec.name, self._machines.store
        # It may have been started again by somebody else, on no leash.
        await control.stop(store, name, StopMode.FORCE, DOWN_SECONDS)
        self._owned.close()
        # A command of another process may just be at it; it will see that the machine has ended.
        await until(lambda: self._removed(store, name), RELEASE_SECONDS, f"machine {name!r} is still in use")
        self._mine = False

    @staticmethod
    def _removed(store: MachineStore, name: str) -> bool:
        with contextlib.suppress(UnavailableError), store.claim(name):
            store.remove(name)
            return True
        return False


def _with_own(placement: Placement, spec: MachineSpec, files: MachineFiles, own: Allocation) -> Placement:
    """With what is this machine's alone."""
    variables = files.variables if spec.firmware_variables is not None else None
    return replace(placement, variables=variables, macs=own.macs, vsock_cid=own.vsock_cid)


def _bases(spec: MachineSpec) -> dict[int, DiskImage]:
    """The images under the overlays of the disks that the specification names.

    Raises `UnavailableError` where an image of any disk is missing.
    """
    disks = {number: disk for number, disk in enumerate([spec.image, *spec.disks]) if disk is not None}
    for disk in disks.values():
        if not disk.path.exists():
            raise UnavailableError(f"the disk image {disk.path} does not exist", hint="see: tdx image list")
    return {number: _base(disk) for number, disk in disks.items() if disk.has_overlay}


def _base(disk: Disk) -> Base:
    if disk.known_format is not None:
        return Base(disk.path, disk.known_format.value)
    with disk.path.open("rb") as file:
        return Base(disk.path, "qcow2" if file.read(len(QCOW2_MAGIC)) == QCOW2_MAGIC else "raw")


def silicon(pki: Pki) -> EmulatedSilicon:
    """What the emulator stands in for, as the emulated platform's root of trust has it."""
    return EmulatedSilicon(
        mac_key=pki.report_mac_key_file,
        mrseam=pki.platform.mrseam,
        cpusvn=pki.platform.cpusvn,
        tee_tcb_svn=pki.platform.tee_tcb_svn,
    )
