"""A whole prediction: firmware, boot loader and kernel of one machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tdxstack.errors import MalformedError, UnavailableError, UsageError, about
from tdxstack.firmware.contents import Contents, open_contents
from tdxstack.firmware.variables import SecureBoot
from tdxstack.machine.stopped import Launch
from tdxstack.measurement.expected import ExpectedEvent, Prediction, unknown_rest
from tdxstack.measurement.firmware_boot import ready_to_boot_events, start_events
from tdxstack.measurement.loader_boot import (
    SETUP_MAGIC,
    SETUP_MAGIC_OFFSET,
    direct_load_options,
    exit_events,
    kernel_version,
    program_event,
    stub_events,
)
from tdxstack.measurement.log_profile import span
from tdxstack.measurement.mrtd import mrtd
from tdxstack.measurement.pe import Image
from tdxstack.measurement.profile import Profile, look_alikes, of_release
from tdxstack.measurement.unified_kernel import UnifiedKernel
from tdxstack.prediction.disk_boot import Start, Volumes, disk_events
from tdxstack.prediction.firmware import check_firmware, firmware_inputs
from tdxstack.prediction.hardware import SMBIOS_TABLES, Hardware
from tdxstack.prediction.keys import Keys

KERNEL, KERNEL_DOES = "the kernel from QEMU", "what the kernel does"

HEADER_OPEN = (
    "QEMU writes into the kernel's header; whether it does so for a TD cannot be asked here, as none starts"
)
NO_SECOND_INITRD = "a unified kernel image brings its own initrd, and does not start with another from QEMU"
NO_RELEASE = "does not say which release of edk2 it is; by what it holds, it is taken for"
SAVED_ELSEWHERE = "this firmware, built without Secure Boot, restores variables from NvVars on the disk"


def predict(
    launch: Launch,
    firmware: bytes,
    machine: Hardware,
    disk: Path | None,
    called: Path | None = None,
    release: str = "",
) -> Prediction:
    """Every event of a boot, and the registers that they make.

    `firmware` is the content of the machine's firmware file, `disk` the image in its disk, which reasons
    name as it is `called`. `release` is that of edk2, one of `profile.RELEASES`, for a firmware that does not
    say it. What cannot be known is in the prediction with the reason. A firmware that measures nothing leaves
    no events, and zeros in the registers. Raises `MalformedError` for a firmware that no TD can start with or
    a disk that cannot be read, `UnavailableError` where a file is missing, `UsageError` for a firmware that
    says another release.
    """
    with about(f"firmware {launch.firmware}"):
        contents = _of_release(open_contents(firmware), release)
    check_firmware(contents, str(launch.firmware))
    if not contents.measures:
        # Without the firmware's measurement protocol, boot loaders and the kernel do not measure either.
        return Prediction((), mrtd(firmware))
    inputs = firmware_inputs(contents, launch, machine)
    volumes = _volumes(launch, disk)
    if volumes.saved_variables and contents.secure_boot is SecureBoot.UNSUPPORTED:
        inputs = replace(inputs, boot_variables=None, boot_variables_reason=SAVED_ELSEWHERE)
    before, ready = start_events(inputs), ready_to_boot_events(inputs)
    if launch.kernel is None:
        tables, alone = machine.files[SMBIOS_TABLES], len(machine.disks) <= 1
        start = Start(contents, contents.profile.shown.fat_flush, tables, alone)
        events = [*before, *ready, *disk_events(disk, start, called)]
    else:
        program, after = _direct_kernel(launch, launch.kernel, contents, machine, volumes)
        events = [*before, *program, *ready, *after]
    guess = "" if contents.profile_exact else f"{launch.firmware} {NO_RELEASE} {_nearest(contents.profile)}"
    return Prediction(tuple(events), mrtd(firmware), guess=guess)


def check_kernel(path: Path) -> None:
    """Raise `MalformedError` for a file that QEMU takes for no kernel, which it says without naming it."""
    start = _read(path)[: SETUP_MAGIC_OFFSET + len(SETUP_MAGIC)]
    if not start.startswith(b"MZ") and start[SETUP_MAGIC_OFFSET:] != SETUP_MAGIC:
        raise MalformedError(
            f"{path} is neither a Linux kernel (bzImage) nor an EFI program",
            hint="give one of them as kernel",
        )


def _of_release(contents: Contents, release: str) -> Contents:
    """The firmware, taken for one of that release of edk2, where one is given."""
    if not release:
        return contents
    profile = replace(of_release(release), shown=contents.profile.shown)
    if contents.profile_exact and contents.profile != profile:
        raise UsageError(
            f"the firmware says that it is of {contents.profile.name}, not of {profile.name}",
            hint="a release is given for a firmware that says none",
        )
    return replace(contents, profile=profile, profile_exact=True)


def _nearest(profile: Profile) -> str:
    """The release that a firmware is taken for, and which others it may be of."""
    others = span([one.name for one in look_alikes(profile)])
    alike = f"; {others} look the same and measure otherwise (--edk2 RELEASE)" if others else ""
    return profile.name + alike


def _volumes(launch: Launch, disk: Path | None) -> Volumes:
    if disk is None:
        return Volumes()
    try:
        return Volumes.of(disk)
    except MalformedError:
        if launch.kernel is not None:
            raise
        return Volumes()  # what is wrong with the disk is said where the boot loader is looked for


def _direct_kernel(
    launch: Launch, path: Path, contents: Contents, machine: Hardware, volumes: Volumes
) -> tuple[list[ExpectedEvent], list[ExpectedEvent]]:
    """The events of loading a kernel that QEMU hands over, and those of running it."""
    file = _read(path)
    as_it_is = machine.named_kernel and contents.profile.shown.named_kernel
    # The first part is taken from QEMU, which may write into the kernel's header.
    from_qemu = machine.kernel_setup + file[len(machine.kernel_setup) :]
    kernel = file if as_it_is else from_qemu
    initrd = _read(launch.initrd) if launch.initrd else b""
    options = direct_load_options(contents.profile, launch.command_line, initrd=bool(initrd))
    if kernel != file and not machine.td_cpu:
        return [], unknown_rest(KERNEL_DOES, str(path), HEADER_OPEN)
    keys = Keys(contents)
    program: list[ExpectedEvent] = []
    running: list[ExpectedEvent] = []
    try:
        with about(str(path)):
            image = Image.parse(kernel)
            event = program_event(image, KERNEL, str(path))
            if from_qemu != file:
                other = Image.parse(from_qemu if kernel == file else file)
                event = replace(event, other_header=other.digest())
            program += [*keys.firmware_lets(image, KERNEL), event]
            unified = UnifiedKernel.parse(image)
            if unified is None:
                running += _bare_kernel(file, options, initrd)
            else:
                running.extend(_unified_kernel(unified, launch, options, machine, enforced=keys.enforced))
    except MalformedError as error:
        return program, [*running, *unknown_rest(KERNEL_DOES, str(path), error.message)]
    retried = contents.profile.shown.fat_flush and volumes.fat
    return program, [*running, *exit_events(retried=retried)]


def _bare_kernel(file: bytes, options: str, initrd: bytes) -> list[ExpectedEvent]:
    if kernel_version(file) is None:
        raise MalformedError(
            "it is no Linux kernel (bzImage) that states its version", hint="give a Linux kernel"
        )
    return stub_events(file, options, initrd, terminated=True)


def _unified_kernel(
    unified: UnifiedKernel, launch: Launch, options: str, machine: Hardware, *, enforced: bool
) -> Iterator[ExpectedEvent]:
    if launch.initrd is not None:
        raise MalformedError(NO_SECOND_INITRD, hint="leave the other initrd out")
    tables = machine.files[SMBIOS_TABLES]
    yield from unified.events(options, str(launch.kernel), secure_boot=enforced, smbios_tables=tables)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnavailableError(
            f"{path} cannot be read: {error.strerror}", hint="the machine needs it to start"
        ) from None
