"""A machine's command line read back, and made into one that only shows what the machine is.

What QEMU tells a guest of its hardware (ACPI tables, SMBIOS, boot order) depends on the QEMU binary and on
nearly every option. So it is asked of that binary, started with the machine's own options: stopped, with an
empty disk and a console that nobody reads, and talked to by QEMU's test protocol.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tdxstack.errors import MalformedError
from tdxstack.machine.qemu_devices import AUTHORIZED_KEY_ITEM, BOOT_DISK

TD_OBJECTS = ("tdx-guest", "tdx-tcg-guest")

_DROPPED = {"-name", "-qmp", "-mon", "-no-reboot", "-S"}
_WITHOUT_VALUE = {"-nodefaults", "-no-user-config", "-no-reboot", "-S"}
_NULL_DISK_SIZE = 1 << 30
_MEMORY, _NUMBER = re.compile(r"(\d{1,9})M"), re.compile(r"(\d{1,4})(,.*)?")
_ID = re.compile(r"\bid=[^,]*")

HINT = "predict machines that tdx started"


@dataclass(frozen=True, slots=True)
class Launch:
    """What of a machine's command line its measurements depend on."""

    argv: tuple[str, ...]
    firmware: Path
    memory_mib: int
    vcpus: int
    disk: Path | None
    kernel: Path | None
    initrd: Path | None
    command_line: str

    @classmethod
    def parse(cls, argv: Sequence[str]) -> Launch:
        """Read a command line that `build_qemu_command` made. Raises `MalformedError` for another."""
        options = _options(argv)
        values = dict(reversed(options))
        memory = _MEMORY.fullmatch(values.get("-m", ""))
        vcpus = _NUMBER.fullmatch(values.get("-smp", ""))
        if memory is None or vcpus is None or "-bios" not in values:
            raise _bad("gives no memory in MiB, number of CPUs or firmware")
        return cls(
            argv=tuple(argv),
            firmware=Path(values["-bios"]),
            memory_mib=int(memory[1]),
            vcpus=int(vcpus[1]),
            disk=_disk(value for option, value in options if option == "-blockdev"),
            kernel=_path(values.get("-kernel")),
            initrd=_path(values.get("-initrd")),
            command_line=values.get("-append", ""),
        )

    def stopped_command(self, *, confidential: bool) -> list[str]:
        """The command that starts the same hardware, stopped, with the test protocol on its standard streams.

        `confidential`: with the TD's own object, for which the accelerator must be able to run TDs. Without
        it, the machine has what QEMU gives a TD's: no SMM and no PIC; but the CPU is not that of a TD.
        """
        words = [self.argv[0]]
        for option, value in _options(self.argv):
            words += _stopped_option(option, value, confidential)
        return [*words, "-S", "-qtest", "stdio", "-qtest-log", "/dev/null"]


def _disk(blockdevs: Iterable[str]) -> Path | None:
    """The disk to boot from."""
    for blockdev in blockdevs:
        document = _json(blockdev)
        member = document.get("file")
        filename = member.get("filename") if isinstance(member, dict) else None
        if not isinstance(filename, str):
            raise _bad(f"has a disk in another form: {blockdev[:200]}")
        if document.get("node-name") == BOOT_DISK:
            return Path(filename)
    return None


def _json(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise _bad(f"has an option in another form: {text[:200]}")
    return document


def _bad(problem: str) -> MalformedError:
    return MalformedError(f"QEMU's command line {problem}", hint=HINT)


def _path(text: str | None) -> Path | None:
    return Path(text) if text is not None else None


def _options(argv: Sequence[str]) -> list[tuple[str, str]]:
    """(option, value) of each option behind the program; "" for options without a value."""
    found = []
    at = 1
    while at < len(argv):
        option = argv[at]
        if not option.startswith("-") or (option not in _WITHOUT_VALUE and at + 1 == len(argv)):
            raise _bad(f"has {option!r} in the place of an option")
        if option in _WITHOUT_VALUE:
            found.append((option, ""))
            at += 1
        else:
            found.append((option, argv[at + 1]))
            at += 2
    return found


def _stopped_option(option: str, value: str, confidential: bool) -> list[str]:
    if option in _DROPPED:
        return []
    if option in _WITHOUT_VALUE:
        return [option]
    if option == "-object":
        return _stopped_object(_json(value), confidential)
    if option == "-blockdev":
        node = _json(value).get("node-name")
        return [option, json.dumps({"driver": "null-co", "node-name": node, "size": _NULL_DISK_SIZE})]
    if option == "-chardev":
        return [option, "null," + _id(value)]
    if option == "-netdev":
        return [option, "user," + _id(value)]
    if option == "-fw_cfg" and value.startswith(f"name={AUTHORIZED_KEY_ITEM},"):
        return []
    if option == "-device" and value.startswith("vhost-vsock-pci,"):
        # In its place, something that takes no identifier which the machine itself may hold.
        return [option, "virtio-rng-pci"]
    if option == "-device" and value.startswith("vfio-pci,"):
        raise _bad(f"hands over a device of the host: {value}")
    if confidential:
        return [option, value]
    if option == "-machine":
        kept = [word for word in value.split(",")[1:] if word.startswith("memory-backend=")]
        return [option, ",".join([value.split(",")[0], "smm=off", "pic=off", *kept])]
    if option == "-accel":
        return [option, "tcg"]
    if option == "-cpu":
        return [option, "max"]
    return [option, value]


def _stopped_object(made: dict[str, Any], confidential: bool) -> list[str]:
    """The TD, and memory as it is arranged; not where the host takes it from."""
    if made.get("qom-type") in TD_OBJECTS and confidential:
        return ["-object", json.dumps({name: made.get(name) for name in ("qom-type", "id")})]
    if str(made.get("qom-type")).startswith("memory-backend-"):
        memory = {"qom-type": "memory-backend-ram", "id": made.get("id"), "size": made.get("size")}
        return ["-object", json.dumps(memory)]
    return []


def _id(value: str) -> str:
    return "".join(_ID.findall(value)[:1])
