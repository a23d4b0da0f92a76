"""What is measured between the boot attempt and the kernel: programs, partition table, Linux's EFI stub.

Sources: edk2 SecurityPkg/Library/DxeTpm2MeasureBootLib, OvmfPkg/Tcg/TdTcg2Dxe and
OvmfPkg/Library/GenericQemuLoadImageLib; Linux drivers/firmware/efi/libstub and
Documentation/arch/x86/boot.rst.
"""

from __future__ import annotations

import re

from tdxstack.abi import event_log
from tdxstack.abi.event_log import Event
from tdxstack.measurement.describe import describe
from tdxstack.measurement.expected import ExpectedEvent, hashed
from tdxstack.measurement.pe import Image
from tdxstack.measurement.profile import Profile

INITRD_OPTION = "initrd=initrd"
EXIT_FAILED = b"Exit Boot Services Returned with Failure"
EXIT_INVOCATION = b"Exit Boot Services Invocation"
EXIT_SUCCEEDED = b"Exit Boot Services Returned with Success"

SETUP_MAGIC, SETUP_MAGIC_OFFSET, VERSION_POINTER = b"HdrS", 0x202, 0x20E
FIRST_MEASURING_KERNEL = (6, 9)

_VERSION = re.compile(r"(\d+)\.(\d+)")


def program_event(image: Image, name: str, source: str) -> ExpectedEvent:
    """The event of an EFI program that firmware or shim loads."""
    return ExpectedEvent(
        "rtmr1", event_log.EV_EFI_BOOT_SERVICES_APPLICATION, image.digest(), f"EFI program {name}", source
    )


def partitions_event(measured: bytes) -> ExpectedEvent:
    """The event of the partition table of the disk that a program is loaded from."""
    kind = event_log.EV_EFI_GPT_EVENT
    meaning = describe(Event(0, kind, (), measured))
    return hashed("rtmr1", kind, measured, meaning, "disk image", data=measured)


def exit_events(*, retried: bool) -> list[ExpectedEvent]:
    """The end of boot services; `retried` where the first call fails, as the memory map has changed."""
    actions = [*([EXIT_FAILED] if retried else []), EXIT_INVOCATION, EXIT_SUCCEEDED]
    return [
        hashed("rtmr1", event_log.EV_EFI_ACTION, action, action.decode(), "firmware and kernel")
        for action in actions
    ]


def stub_events(kernel: bytes, command_line: str, initrd: bytes, *, terminated: bool) -> list[ExpectedEvent]:
    """What Linux's EFI stub measures; nothing before Linux 6.9.

    `terminated`: whether the loader counts the zero behind the command line to it. edk2 does, GRUB does not.
    """
    version = kernel_version(kernel)
    if version is not None and version < FIRST_MEASURING_KERNEL:
        return []
    found = []
    if command_line:
        data = (command_line + "\0" * terminated).encode("utf-16-le")
        meaning = f"kernel command line: {command_line}"
        found.append(hashed("rtmr2", event_log.EV_EVENT_TAG, data, meaning, "command line"))
    if initrd:
        meaning = f"initrd, {len(initrd)} bytes"
        found.append(hashed("rtmr2", event_log.EV_EVENT_TAG, initrd, meaning, "initrd"))
    return found


def kernel_release(kernel: bytes) -> str | None:
    """What `uname -r` will say of a bzImage; None for what is no bzImage or states none."""
    if kernel[SETUP_MAGIC_OFFSET : SETUP_MAGIC_OFFSET + 4] != SETUP_MAGIC:
        return None
    at = 0x200 + int.from_bytes(kernel[VERSION_POINTER : VERSION_POINTER + 2], "little")
    text = kernel[at : at + 64].partition(b"\0")[0].decode("latin-1").partition(" ")[0]
    return text if _VERSION.match(text) else None


def kernel_version(kernel: bytes) -> tuple[int, int] | None:
    """Major and minor version that a bzImage states; None for what is no bzImage or states none."""
    release = kernel_release(kernel)
    found = _VERSION.match(release) if release else None
    return (int(found[1]), int(found[2])) if found else None


def direct_load_options(profile: Profile, command_line: str, *, initrd: bool) -> str:
    """The load options that edk2 gives a kernel from QEMU."""
    if not initrd:
        return command_line
    if profile.shown.initrd_first:
        return f"{INITRD_OPTION} {command_line}"
    return f"{command_line} {INITRD_OPTION}"
