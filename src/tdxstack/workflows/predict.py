"""Gather what a prediction needs: of a machine that there is, or of parts that are found or fetched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import CommandError
from tdxstack.files import Directories
from tdxstack.firmware.find import read_image
from tdxstack.machine.qemu_command import build_qemu_command
from tdxstack.machine.spec import DirectKernel, EmulatedTd, MachineSpec, TdSettings
from tdxstack.machine.stopped import Launch
from tdxstack.machine.store import MachineStore
from tdxstack.measurement.expected import Prediction
from tdxstack.platform import Platform, choose_platform
from tdxstack.prediction.boot import predict
from tdxstack.prediction.hardware import Hardware, hardware
from tdxstack.prediction.qcow2 import backing_file
from tdxstack.workflows.workshop import Surroundings, Workshop

PLACEHOLDER = "prediction"
"""Name of the machine that is only predicted."""


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """What to predict: a machine by name, or a new one. What is left out is as `tdx up` would have it."""

    name: str = ""
    platform: Platform | None = None
    firmware: Path | None = None
    image: Path | None = None
    vcpus: int = 2
    memory_mib: int = 2048
    direct_kernel: DirectKernel | None = None


@dataclass(frozen=True, slots=True)
class PredictResult:
    """The prediction, and of what."""

    prediction: Prediction
    emulated: bool
    launch: Launch
    disk: Path | None

    def to_json(self) -> dict[str, object]:
        """The document that `tdx predict --json` prints (docs/reference/json.md)."""
        return {
            "emulated": self.emulated,
            "machine": {
                "firmware": str(self.launch.firmware),
                "memory_mib": self.launch.memory_mib,
                "vcpus": self.launch.vcpus,
                "disk": str(self.disk) if self.disk else None,
                "kernel": str(self.launch.kernel) if self.launch.kernel else None,
                "initrd": str(self.launch.initrd) if self.launch.initrd else None,
                "qemu": self.launch.argv[0],
            },
        } | self.prediction.to_json()


def predict_machine(request: PredictRequest, surroundings: Surroundings, workshop: Workshop) -> PredictResult:
    """Predict every event of a machine's boot, without booting it.

    Raises `UsageError` where there is no such machine, and what finding or fetching the parts raises.
    """
    store = MachineStore(surroundings.directories)
    if request.name:
        state = store.load(request.name)
        launch, emulated = Launch.parse(state.argv), state.emulated
        disk = launch.disk
        if disk is not None and store.is_running(request.name):
            # Its own disk is being written to; it started with what lies below.
            disk = backing_file(disk)
    else:
        launch, emulated, disk = _new_machine(request, surroundings, workshop, store)
    machine = _hardware(launch, surroundings.directories, emulated=emulated)
    firmware = read_image(launch.firmware)
    return PredictResult(predict(launch, firmware, machine, disk), emulated, launch, disk)


def _new_machine(
    request: PredictRequest, surroundings: Surroundings, workshop: Workshop, store: MachineStore
) -> tuple[Launch, bool, Path]:
    choice = choose_platform(surroundings.host, request.platform)
    qemu = tuple(workshop.emulator().argv_prefix) if choice.emulated else (workshop.host_qemu(),)
    image = request.image or workshop.image().path
    # Only named in the command line: neither secrets nor disks are opened for a prediction.
    silicon = EmulatedTd(Path("/dev/null"), bytes(48), bytes(16), bytes(16))
    spec = MachineSpec(
        name=PLACEHOLDER,
        platform=choice.platform,
        qemu=qemu,
        firmware=workshop.firmware(request.firmware).path,
        disk=image,
        authorized_key="",
        direct_kernel=request.direct_kernel,
        vcpus=request.vcpus,
        memory_mib=request.memory_mib,
        td=TdSettings(),
        emulated_td=silicon if choice.emulated else None,
    )
    argv = build_qemu_command(spec, store.files(PLACEHOLDER))
    return Launch.parse(argv), choice.emulated, image


def _hardware(launch: Launch, directories: Directories, *, emulated: bool) -> Hardware:
    """What QEMU says of the machine: as a TD where a TD can be started here, else as one is made."""
    cache = directories.cache / "prediction"
    try:
        return hardware(launch, cache, confidential=True)
    except CommandError:
        if emulated:
            raise
        return hardware(launch, cache, confidential=False)
