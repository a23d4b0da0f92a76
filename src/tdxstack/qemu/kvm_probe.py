"""Whether KVM runs firmware here, found out by having it run one.

A /dev/kvm that is there need not: on a host that is itself a virtual machine, KVM may have to emulate what a
CPU does while it runs from ROM, and its emulator lacks instructions that edk2 starts with.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tdxstack.errors import CommandError, UnavailableError
from tdxstack.platform import Platform, PlatformChoice
from tdxstack.run import Conversation, converse

SECONDS, POLL_SECONDS = 20.0, 0.02

SIZE, START, RESET = 1 << 16, 0xF000, 0xFFF0
EXIT_PORT, EXIT_VALUE = 0x501, 0x10
EXIT_CODE = EXIT_VALUE << 1 | 1
"""What QEMU's isa-debug-exit ends with."""

_PROBLEM = "KVM does not run firmware here"
_ANSWER = '{"return":'
_STATUS = re.compile(r'"status": "([a-z-]+)"')
_PROGRAM: Final = b"".join(
    (
        b"\xfa",  # cli
        b"\x9b\xdb\xe3",  # finit, as edk2's InitializeFloatingPointUnits has it
        b"\xba" + EXIT_PORT.to_bytes(2, "little"),  # mov dx, EXIT_PORT
        b"\xb0" + bytes([EXIT_VALUE]),  # mov al, EXIT_VALUE
        b"\xee",  # out dx, al
        b"\xf4",  # hlt
    )
)


def why_no_kvm(qemu: Sequence[str]) -> str:
    """Why `qemu` cannot run firmware on KVM; empty where it can. Raises `UnavailableError` without a QEMU."""
    with tempfile.TemporaryDirectory(prefix="tdx-kvm-") as name:
        firmware = Path(name) / "firmware"
        firmware.write_bytes(image())
        try:
            with converse(command(qemu, firmware), timeout=SECONDS) as conversation:
                conversation.ask(_question("qmp_capabilities"), _ANSWER)
                while "running" in (status := _status(conversation)):
                    time.sleep(POLL_SECONDS)
        except CommandError as error:
            # QEMU before 9.2 ends with the code at once.
            return "" if f"exit code {EXIT_CODE}" in error.message else f"{_PROBLEM}: {error.message}"
    return "" if status == "shutdown" else f"{_PROBLEM}: QEMU's state is {status!r}"


def choose_ordinary_platform(qemu: Sequence[str], requested: Platform | None) -> PlatformChoice:
    """The platform of a machine that is no TD: hardware is KVM, where it runs firmware, else emulated is TCG.

    Raises `UnavailableError` where hardware is requested and KVM does not run firmware.
    """
    if requested is Platform.EMULATED:
        return PlatformChoice(Platform.EMULATED, "requested")
    problem = why_no_kvm(qemu)
    if not problem:
        return PlatformChoice(Platform.HARDWARE, "KVM runs firmware")
    if requested is Platform.HARDWARE:
        raise UnavailableError(problem, hint="use platform emulated, which is slower but runs anywhere")
    return PlatformChoice(Platform.EMULATED, problem)


def _status(conversation: Conversation) -> str:
    found = _STATUS.search(conversation.ask(_question("query-status"), _ANSWER))
    return found[1] if found else "unknown"


def _question(command: str) -> str:
    return json.dumps({"execute": command})


def command(qemu: Sequence[str], firmware: Path) -> list[str]:
    """The command that runs `firmware` on KVM, and answers QMP on its standard streams."""
    # fmt: off
    return [
        *qemu, "-accel", "kvm", "-cpu", "host", "-machine", "q35", "-m", "64M", "-bios", str(firmware),
        "-nodefaults", "-no-user-config", "-display", "none", "-qmp", "stdio",
        "-action", "reboot=shutdown,shutdown=pause",
        "-device", f"isa-debug-exit,iobase={EXIT_PORT:#x},iosize=2",
    ]
    # fmt: on


def image() -> bytes:
    """A firmware of 64 KiB that initialises the FPU, as every firmware does, and ends QEMU."""
    rom = bytearray(b"\xf4" * SIZE)
    rom[START : START + len(_PROGRAM)] = _PROGRAM
    jump = b"\xe9" + (START - (RESET + 3) & 0xFFFF).to_bytes(2, "little")
    rom[RESET : RESET + len(jump)] = jump
    return bytes(rom)
