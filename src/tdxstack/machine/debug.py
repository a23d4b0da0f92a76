"""A debugger on a guest: QEMU's gdb stub, and where the guest's kernel has its symbols."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import CommandError, UnavailableError
from tdxstack.machine.machine import Machine
from tdxstack.machine.qemu_text import escape
from tdxstack.machine.readiness import greets
from tdxstack.platform import Platform
from tdxstack.qemu import monitor
from tdxstack.run import command_line

LINK_ADDRESS = 0xFFFFFFFF81000000
"""Where Linux on x86-64 is linked to have `_text`: __START_KERNEL of arch/x86/include/asm/page_types.h, with
CONFIG_PHYSICAL_START at its default of 16 MiB."""

INSTEAD = (
    "the attribute DEBUG would open them, and upstream QEMU and KVM refuse it: debug an emulated TD "
    "(tdx vm create --platform emulated), or from inside the guest (kgdb on its console)"
)

SECONDS = 60.0
_RELEASE = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+~_-]{0,63}")
_PACKAGES = {"debian": "linux-image-{}-dbg", "ubuntu": "linux-image-{}-dbgsym"}
_SYMBOLS = "/usr/lib/debug/boot/vmlinux-{}"


@dataclass(frozen=True, slots=True)
class Debugging:
    """How a debugger gets at a guest."""

    socket: Path
    """Where QEMU's stub listens; only this user can connect."""
    kernel: str
    """Version of the guest's kernel; empty where the guest could not be asked."""
    offset: int | None
    """How far the kernel was moved from where its symbols say; None where the guest could not be asked."""
    package: str
    """Package of the guest's distribution that has the kernel's symbols; empty where that is not known."""
    symbols: str
    """Where that package puts them."""

    @property
    def command(self) -> list[str]:
        """The debugger, ready to go on."""
        words = ["gdb", "-ex", "set architecture i386:x86-64", "-ex", f"target remote {self.socket}"]
        if self.symbols and self.offset is not None:
            words += ["-ex", f"symbol-file -o {self.offset:#x} {self.symbols}"]
        return words

    def to_json(self) -> dict[str, object]:
        return {
            "socket": str(self.socket),
            "kernel": self.kernel,
            "offset": self.offset,
            "package": self.package,
            "symbols": self.symbols,
            "command": command_line(self.command),
        }


async def debug(machine: Machine) -> Debugging:
    """Open QEMU's gdb stub for a machine that runs, and ask its guest where the kernel is.

    A debugger that connects halts the guest. Raises `UnavailableError` for a TD on hardware.
    """
    machine.require_running()
    record = machine.record
    if record.kind == "td" and record.platform == Platform.HARDWARE.value:
        raise UnavailableError(
            f"machine {machine.name!r} is a TD on hardware: its registers and memory are closed to the VMM",
            hint=INSTEAD,
        )
    kernel, distribution, offset = await _ask_guest(machine)
    socket = machine.files.gdb
    async with monitor.connect(machine.files.monitor) as connection:
        device = f"unix:{escape(socket)},server=on,wait=off"
        said = await connection.execute("human-monitor-command", {"command-line": f"gdbserver {device}"})
    if not socket.exists():
        raise CommandError(f"QEMU opened no gdb stub: {str(said).strip() or 'it says nothing'}")
    package = _PACKAGES.get(distribution, "").format(kernel)
    return Debugging(socket, kernel, offset, package, _SYMBOLS.format(kernel) if package else "")


async def close(machine: Machine) -> None:
    """Close the gdb stub; the guest goes on."""
    machine.require_running()
    async with monitor.connect(machine.files.monitor) as connection:
        await connection.execute("human-monitor-command", {"command-line": "gdbserver none"})
        await connection.execute("cont")
    machine.files.gdb.unlink(missing_ok=True)


async def _ask_guest(machine: Machine) -> tuple[str, str, int | None]:
    """The kernel's version, the distribution, and how far the kernel was moved; as far as the guest tells."""
    if not await greets(machine.record.ssh_port):
        # Not booted yet, halted, or without a network; the stub works all the same.
        return "", "", None
    script = '. /etc/os-release; uname -r; echo "$ID"; grep -m1 " _text$" /proc/kallsyms'
    try:
        done = await machine.run.aio(["sh", "-c", script], timeout=SECONDS)
        kernel, distribution, text = done.stdout.decode(errors="replace").splitlines()[:3]
        address = int(text.split()[0], 16)
    except (UnavailableError, ValueError):
        # No Linux, or one that does not say.
        return "", "", None
    if not _RELEASE.fullmatch(kernel):
        # It becomes a part of commands that a person runs on the host.
        return "", "", None
    return kernel, distribution, address - LINK_ADDRESS if address else None
