"""Runs the cells of the matrix: each is predicted, booted as an emulated TD, and compared."""

from __future__ import annotations

import base64
import binascii
import contextlib
import gzip
import re
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tdxstack.abi.event_log import EventLog
from tdxstack.errors import CommandError, MalformedError, UnavailableError
from tdxstack.machine.placement import EmulatedSilicon, Placement
from tdxstack.machine.qemu_command import build_qemu_command
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import DirectKernel, Disk, Nic
from tdxstack.machine.stopped import Launch
from tdxstack.machine.store import MachineFiles
from tdxstack.measurement.expected import Prediction
from tdxstack.platform import Platform
from tdxstack.prediction.boot import predict
from tdxstack.prediction.hardware import hardware
from tdxstack.run import run
from tdxstack.testing.matrix import Boot, Cell
from tdxstack.testing.matrix_parts import COMMAND_LINE, MatrixMachine, Parts
from tdxstack.verification.result import Status
from tdxstack.workflows.workshop import Workshop

BOOT_SECONDS = 300.0
CONSOLE_TAIL = 2000
_REGISTER = re.compile(r"register (\w+) ([0-9a-f]{96})")
_LOG = re.compile(r"log begins(.*)log ends", re.DOTALL)

Line = tuple[str, str, str]
"""Register, type and digest of an event."""


@dataclass(frozen=True, slots=True)
class CellResult:
    """How a cell ended: `ok` where every event and register was as predicted."""

    cell: Cell
    status: Status
    detail: str
    """What differed, what cannot be predicted, or why the cell could not run."""
    events: int = 0
    registers: tuple[str, ...] = ()
    """Those that were read in the TD itself, besides replaying its log."""
    seconds: float = 0.0
    """Of the boot alone."""

    def to_json(self) -> dict[str, object]:
        """The cell as `tdx test --matrix --json` prints it (docs/reference/json.md)."""
        return {
            "id": self.cell.name,
            "status": self.status.value,
            "detail": self.detail,
            "events": self.events,
            "registers": list(self.registers),
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class Booted:
    """What a TD has shown: its log's events, and the registers that its kernel lets one read."""

    events: tuple[Line, ...]
    registers: dict[str, bytes]

    @classmethod
    def parse(cls, console: str) -> Booted:
        """Read a console. Raises `MalformedError` where the guest did not come to its end."""
        found = _LOG.search(console.replace("\r", ""))
        if found is None:
            tail = console[-CONSOLE_TAIL:]
            raise MalformedError(f"the guest showed no log: {tail!r}", hint="see what it stopped at")
        registers = {name: bytes.fromhex(value) for name, value in _REGISTER.findall(console)}
        try:
            packed = base64.b64decode("".join(found[1].split()))
            data = gzip.decompress(packed) if packed else b""
        except (OSError, EOFError, zlib.error, binascii.Error) as error:
            raise MalformedError(f"the guest's log is damaged: {error}", hint="run the cell again") from None
        events = EventLog.parse(data.rstrip(b"\xff")).events if data else ()
        return cls(
            tuple((one.mr_name.lower(), one.type_name, (one.digest() or b"").hex()) for one in events),
            registers,
        )


@contextlib.contextmanager
def matrix(workshop: Workshop) -> Iterator[Callable[[Cell], CellResult]]:
    """What predicts and boots a cell; everything that it makes is gone afterwards.

    Raises what making the emulator raises.
    """
    qemu = tuple(workshop.emulator().argv_prefix)
    # A short path: those of unix sockets may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="tdx-matrix-") as name:
        parts = Parts(workshop, Path(name))

        def run_cell(cell: Cell) -> CellResult:
            with tempfile.TemporaryDirectory(prefix="m", dir=name) as place:
                return _run_cell(workshop, qemu, parts, cell, Path(place))

        yield run_cell


def _run_cell(workshop: Workshop, qemu: tuple[str, ...], parts: Parts, cell: Cell, place: Path) -> CellResult:
    try:
        machine = parts.machine(cell)
    except UnavailableError as error:
        return CellResult(cell, Status.NOT_APPLICABLE, f"{error.message} ({error.hint})")
    files = MachineFiles(place, place)
    argv = _argv(qemu, workshop, cell, machine, files)
    launch = Launch.parse(argv)
    prediction = predict(
        launch,
        machine.firmware.read_bytes(),
        hardware(launch, place / "cache", confidential=True),
        launch.disk,
    )
    started = time.monotonic()
    try:
        run(argv, timeout=BOOT_SECONDS)
        booted = Booted.parse(files.console_log.read_text(errors="replace"))
    except (CommandError, MalformedError) as error:
        return CellResult(cell, Status.FAIL, error.message)
    seconds = round(time.monotonic() - started, 1)
    status, detail = compare(prediction, booted)
    return CellResult(cell, status, detail, len(booted.events), tuple(booted.registers), seconds)


def compare(prediction: Prediction, booted: Booted) -> tuple[Status, str]:
    """Whether a boot was as predicted, else the first difference or what could not be predicted."""
    if prediction.unpredicted:
        reasons = {event.reason: f"{event.register} {event.meaning}" for event in prediction.unpredicted}
        text = "; ".join(f"{meaning}: {reason}" for reason, meaning in reasons.items())
        return Status.UNKNOWN, f"not predictable: {text}"
    expected = [(event.register, event.type_name, (event.digest or b"").hex()) for event in prediction.events]
    for number, (wanted, found) in enumerate(zip(expected, booted.events, strict=False)):
        if wanted != found:
            meaning = prediction.events[number].meaning
            return Status.FAIL, f"event {number}, {meaning}, is {found}, predicted was {wanted}"
    if len(expected) != len(booted.events):
        return Status.FAIL, f"{len(booted.events)} events were logged, {len(expected)} predicted"
    for name, value in booted.registers.items():
        if prediction.registers[name] != value:
            return Status.FAIL, f"{name} is {value.hex()}, not as predicted"
    if not booted.events and not booted.registers:
        return Status.UNKNOWN, "the TD showed neither a log nor registers"
    return Status.OK, ""


def _argv(
    qemu: tuple[str, ...], workshop: Workshop, cell: Cell, machine: MatrixMachine, files: MachineFiles
) -> list[str]:
    """The command line of a cell's machine, whose disk's overlay is made."""
    files.authorized_key.write_text("none\n")
    mac_key = files.directory / "mac"
    mac_key.write_bytes(bytes(32))
    overlay = ("create", "-q", "-f", "qcow2", "-b", machine.disk, "-F", "raw", files.disk)
    run(workshop.toolbox.program("qemu-img").argv(*overlay), timeout=BOOT_SECONDS)
    kernel = None
    if machine.kernel is not None:
        command_line = COMMAND_LINE if cell.boot is Boot.DIRECT else ""
        kernel = DirectKernel(kernel=machine.kernel, initrd=machine.initrd, command_line=command_line)
    second = machine.second_disk
    spec = MachineSpec(
        name="matrix",
        image=Disk(path=machine.disk),
        disks=(Disk(path=second, overlay=False, read_only=True),) if second else (),
        direct_kernel=kernel,
        vcpus=cell.vcpus,
        memory=cell.memory,
        nics=(Nic(),) if cell.nic else (),
    )
    placement = Placement(
        platform=Platform.EMULATED,
        qemu=qemu,
        firmware=machine.firmware,
        authorized_key="none",
        silicon=EmulatedSilicon(mac_key, bytes(48), bytes(16), bytes(16)),
    )
    return build_qemu_command(spec, placement, files)
