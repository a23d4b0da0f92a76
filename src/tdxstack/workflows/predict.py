"""Gather what a prediction needs: of a machine that there is, or of parts that are found or fetched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tdxstack.abi.event_log import EventLog
from tdxstack.errors import CommandError, MalformedError, UnavailableError, UsageError, about
from tdxstack.files import Directories
from tdxstack.firmware.find import read_image
from tdxstack.host.module import ModuleFile, Releases, read_sound_module
from tdxstack.machine.placement import EmulatedSilicon, Placement
from tdxstack.machine.qemu_command import build_qemu_command
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import Kind
from tdxstack.machine.stopped import Launch
from tdxstack.machine.store import MachineStore
from tdxstack.measurement.expected import Prediction
from tdxstack.measurement.loader_boot import SETUP_MAGIC, SETUP_MAGIC_OFFSET
from tdxstack.measurement.mrtd import mrtd
from tdxstack.platform import Platform, choose_platform
from tdxstack.prediction.after_log import SOURCE, predict_after
from tdxstack.prediction.boot import check_kernel, predict
from tdxstack.prediction.hardware import Hardware, hardware
from tdxstack.prediction.qcow2 import backing_file
from tdxstack.workflows.readable_disk import readable
from tdxstack.workflows.workshop import Surroundings, Workshop

PLACEHOLDER = "prediction"
"""Name of the machine that is only predicted."""

FIRST_VSOCK_CID = 3
"""Stands for the one that is allocated when the machine is made; nothing that is measured depends on it."""

EFI_PROGRAM = b"MZ"
MEASURES_NOTHING = (
    "has no driver TdTcg2Dxe and measures nothing: RTMR0 to RTMR2 stay zeros, whatever the TD boots"
)


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """What to predict: a machine by name, or else one that is made as specified.

    `module` is the TDX module file of the host that will run it; without it MRSEAM is not predicted. `log` is
    that of a TD of a platform whose inputs are not public: only firmware and image of `spec` count then.
    `release` is that of edk2, for a firmware that does not say it.
    """

    name: str = ""
    spec: MachineSpec = field(default_factory=MachineSpec)
    module: Path | None = None
    log: Path | None = None
    release: str = ""


@dataclass(frozen=True, slots=True)
class PredictResult:
    """The prediction, of what, and what to know of it besides.

    `launch` is None for a platform that only a log is known of, and so may be `firmware`.
    """

    prediction: Prediction
    emulated: bool
    firmware: Path | None
    launch: Launch | None
    disk: Path | None
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What is predicted, for people: the firmware, and the kernel or the disk that it starts."""
        started = (self.launch.kernel if self.launch else None) or self.disk
        words = [self.firmware.name] if self.firmware else []
        return " starts ".join([*words, *([_distinct_name(started)] if started else [])])

    def to_json(self) -> dict[str, object]:
        """The document that `tdx predict --json` prints (docs/reference/json.md)."""
        launch = self.launch
        return {
            "emulated": self.emulated,
            "machine": {
                "firmware": str(self.firmware) if self.firmware else None,
                "memory_mib": launch.memory_mib if launch else None,
                "vcpus": launch.vcpus if launch else None,
                "disk": str(self.disk) if self.disk else None,
                "kernel": str(launch.kernel) if launch and launch.kernel else None,
                "initrd": str(launch.initrd) if launch and launch.initrd else None,
                "qemu": launch.argv[0] if launch else None,
            },
        } | self.prediction.to_json()


def _distinct_name(file: Path) -> str:
    """A file's name; of an image that tdx has built, which is `disk` in a directory of that name, its key."""
    return f"image {file.parent.name}" if file.stem == "disk" else file.name


def predict_machine(request: PredictRequest, surroundings: Surroundings, workshop: Workshop) -> PredictResult:
    """Predict every event of a machine's boot, without booting it.

    Raises `UsageError` where there is no such machine, and what finding, fetching or reading the parts
    raises.
    """
    for kernel in _kernels(request.spec):
        _check_kernel(kernel)
    releases = Releases.load()
    module = read_sound_module(request.module, releases) if request.module else None
    scratch = surroundings.directories.cache / "prediction"
    if request.log is not None:
        result = _after_log(request.log, request.spec, workshop, scratch)
    else:
        result = _of_machine(request, surroundings, workshop, scratch)
    if module is None:
        return result
    notes = (*result.notes, *_module_notes(module, releases, emulated=result.emulated))
    return replace(result, prediction=replace(result.prediction, mrseam=module.mrseam), notes=notes)


def _kernels(spec: MachineSpec) -> Iterator[Path]:
    """The programs that QEMU hands to the firmware."""
    if spec.direct_kernel is not None:
        yield spec.direct_kernel.kernel
    if spec.uki is not None:
        yield spec.uki.image


def _check_kernel(path: Path) -> None:
    """Raise `MalformedError` for what QEMU would not hand on, before anything is built to ask it."""
    try:
        with path.open("rb") as file:
            head = file.read(SETUP_MAGIC_OFFSET + len(SETUP_MAGIC))
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read: {error.strerror}", hint="name a kernel") from None
    if not head.startswith(EFI_PROGRAM) and head[SETUP_MAGIC_OFFSET:] != SETUP_MAGIC:
        raise MalformedError(
            f"{path} is neither a Linux kernel (bzImage) nor an EFI program",
            hint="give vmlinuz as distributions install it, or a unified kernel image",
        )


def _after_log(log: Path, spec: MachineSpec, workshop: Workshop, scratch: Path) -> PredictResult:
    """What a TD will measure on the platform whose log is given."""
    if spec.image is None:
        raise UsageError("a log needs a disk image that a TD of its platform will start", hint="give one")
    disk = spec.image.path
    with about(f"firmware {spec.firmware}"):
        measured = mrtd(read_image(spec.firmware)) if spec.firmware else None
    try:
        data = log.read_bytes()
    except OSError as error:
        raise UnavailableError(
            f"{log} cannot be read: {error.strerror}", hint="give the event log (CCEL) of a TD"
        ) from None
    with readable(disk, workshop.toolbox, scratch) as form, about(f"event log {log}"):
        prediction = predict_after(EventLog.parse(data), measured, form, disk)
    notes = [f"{sum(event.source == SOURCE for event in prediction.events)} events are taken from {log}"]
    if measured is None:
        notes.append("mrtd is that of the platform's firmware, which was not given")
    return PredictResult(prediction, False, spec.firmware, None, disk, tuple(notes))


def _of_machine(
    request: PredictRequest, surroundings: Surroundings, workshop: Workshop, scratch: Path
) -> PredictResult:
    store = MachineStore(surroundings.directories)
    if request.name:
        state = store.load(request.name)
        launch, emulated = Launch.parse(state.argv), state.emulated
        disk = launch.disk
        if disk is not None and store.is_running(request.name):
            # Its own disk is being written to; it started with what lies below.
            disk = backing_file(disk)
    else:
        launch, emulated, disk = _new_machine(request.spec, surroundings, workshop, store)
    if launch.kernel is not None:
        check_kernel(launch.kernel)
    machine = _hardware(launch, surroundings.directories, emulated=emulated)
    firmware = read_image(launch.firmware)
    if disk is None:
        prediction = predict(launch, firmware, machine, None, release=request.release)
    else:
        with readable(disk, workshop.toolbox, scratch) as form:
            prediction = predict(launch, firmware, machine, form, disk, request.release)
    silent = "" if prediction.events else f"{launch.firmware} {MEASURES_NOTHING}"
    notes = tuple(note for note in (prediction.guess, silent) if note)
    return PredictResult(prediction, emulated, launch.firmware, launch, disk, notes)


def _module_notes(module: ModuleFile, releases: Releases, *, emulated: bool) -> Iterator[str]:
    """What may keep a TD from showing the MRSEAM of the file."""
    if module.signer not in releases.signers:
        yield f"{module.path} is signed with a key that tdxstack does not know; a CPU may refuse it"
    if emulated:
        yield "mrseam is for TDX hardware: an emulated TD runs on no TDX module and has an MRSEAM of its own"


def _new_machine(
    spec: MachineSpec, surroundings: Surroundings, workshop: Workshop, store: MachineStore
) -> tuple[Launch, bool, Path | None]:
    if spec.kind is not Kind.TD:
        raise UsageError(
            f"a machine of the kind {spec.kind.value} has no registers to predict",
            hint="predict a machine of the kind td",
        )
    # Nothing is started, so that a host need not be able to run what is asked for.
    platform = spec.platform or choose_platform(surroundings.host, None).platform
    emulated = platform is Platform.EMULATED
    spec = spec.changed(name=PLACEHOLDER, platform=platform)
    qemu = tuple(workshop.emulator().argv_prefix) if emulated else (workshop.host_qemu(),)
    firmware = workshop.firmware(spec.firmware).path
    disk = None if spec.diskless else spec.image.path if spec.image else workshop.image().path
    # Only named in the command line: neither secrets nor disks are opened for a prediction.
    silicon = EmulatedSilicon(Path("/dev/null"), bytes(48), bytes(16), bytes(16))
    placement = Placement(
        platform=platform,
        qemu=qemu,
        firmware=firmware,
        authorized_key="",
        silicon=silicon if emulated else None,
        vsock_cid=FIRST_VSOCK_CID,
    )
    argv = build_qemu_command(spec, placement, store.files(PLACEHOLDER))
    return Launch.parse(argv), emulated, disk


def _hardware(launch: Launch, directories: Directories, *, emulated: bool) -> Hardware:
    """What QEMU says of the machine: as a TD where a TD can be started here, else as one is made."""
    cache = directories.cache / "prediction"
    try:
        return hardware(launch, cache, confidential=True)
    except CommandError:
        if emulated:
            raise
        return hardware(launch, cache, confidential=False)
