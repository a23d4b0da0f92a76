"""What systemd-stub measures of the unified kernel image that it is a part of, before its kernel starts.

Sources: systemd 257 and 262, src/boot/stub.c, linux.c, cpio.c, console.c, measure-smbios.c, boot-secret.c,
secure-boot.c, src/fundamental/uki.h.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tdxstack.abi import event_log
from tdxstack.errors import MalformedError
from tdxstack.measurement import smbios
from tdxstack.measurement.expected import ExpectedEvent, hashed
from tdxstack.measurement.loader_boot import kernel_version, program_event, stub_events
from tdxstack.measurement.pe import Image, Section

MAGIC_SECTION, LINUX, COMMAND_LINE, INITRD = ".sdmagic", ".linux", ".cmdline", ".initrd"
OS_RELEASE = ".osrel"
SIGNATURE, MICROCODE, PROFILE = ".pcrsig", ".ucode", ".profile"
MEASURED = (
    *(LINUX, OS_RELEASE, COMMAND_LINE, INITRD, MICROCODE, ".splash", ".dtb", ".uname", ".sbat"),
    *(".pcrpkey", PROFILE, ".hwids"),
)
"""In the order of measuring. The signature of expected values is left out, as it cannot be its own input."""
CHOSEN_BY_HARDWARE = (".dtbauto", ".efifw")
KNOWN = frozenset((*MEASURED, SIGNATURE, *CHOSEN_BY_HARDWARE))
MAX_ZEROS = 1 << 20
"""Of a section, behind what the file has of it."""
WRAPPED = {
    SIGNATURE: "tpm2-pcr-signature.json",
    ".pcrpkey": "tpm2-pcr-public-key.pem",
    OS_RELEASE: "os-release",
    PROFILE: "profile",
}
"""Sections that the initrd gets as files in `.extra`, in that order, each as an archive of its own."""
OLD_STUB, NEW_STUB = 257, 262
"""The two that are followed.

The new one enters the kernel by itself, so that the firmware does not measure it. It measures SMBIOS
structures, adds a console to a command line that has none, and a secret to the initrd where it starts from a
disk.
"""
SMBIOS_MEASURED = (1, 2, 11)
WAKE_UP_TYPE_OFFSET = 24
"""In SMBIOS type 1; the stub zeroes it."""
FIRST_LOADED_KERNEL = (5, 8)
"""Older kernels are not loaded by the firmware's LoadImage, but entered by their handover protocol."""

_STUB = re.compile(rb"#### LoaderInfo: systemd-stub (\d{1,4})")
_LOADER = re.compile(rb"#### LoaderInfo: systemd-boot (\d{1,4})")
_CONSOLE = re.compile(r"(?:^| )console=")
_CONTROL = re.compile(r"[\x00-\x20\x7f]")

HINT = "give its kernel, initrd and command line to QEMU, or build it with systemd-stub 257 or 262"


@dataclass(frozen=True, slots=True)
class UnifiedKernel:
    """A unified kernel image: its stub's version, and the sections that are found, as they are in memory."""

    stub: int
    sections: Mapping[str, bytes]

    @classmethod
    def parse(cls, image: Image) -> UnifiedKernel | None:
        """Read it out of a program; None for another one. Raises `MalformedError` for one not followed."""
        if image.section(LINUX) is None:
            return None
        stub = _STUB.match(image.section(MAGIC_SECTION) or b"")
        if stub is None:
            raise _not_followed("its stub is not systemd-stub")
        version = int(stub[1])
        if version not in (OLD_STUB, NEW_STUB):
            raise _not_followed(f"its systemd-stub {version} is not followed, only {OLD_STUB} and {NEW_STUB}")
        sections = {name: _in_memory(image, section) for name, section in _found(image.sections).items()}
        for name in CHOSEN_BY_HARDWARE:
            if name in sections:
                raise _not_followed(f"what is measured of its section {name} depends on the hardware")
        return cls(version, {name: content for name, content in sections.items() if content})

    @property
    def kernel(self) -> bytes:
        """The kernel, as the stub hands it to the firmware. Raises `MalformedError` for one not followed."""
        kernel = self.sections.get(LINUX, b"")
        version = kernel_version(kernel)
        if version is None or version < FIRST_LOADED_KERNEL:
            raise _not_followed("its kernel is no bzImage of Linux 5.8 or newer")
        return kernel

    @property
    def initrd(self) -> bytes:
        """All initrds as the kernel gets them: microcode, the initrd, and one archive for each `WRAPPED`."""
        parts = [self.sections[name] for name in (MICROCODE, INITRD) if name in self.sections]
        parts += [_archive(name, self.sections[key]) for key, name in WRAPPED.items() if key in self.sections]
        return parts[0] if len(parts) == 1 else b"".join(map(_padded, parts))

    def events(
        self, options: str, source: str, *, secure_boot: bool, smbios_tables: bytes
    ) -> Iterator[ExpectedEvent]:
        """What is logged between the start of the stub and the end of boot services.

        `options` are the load options that it is started with, `smbios_tables` QEMU's structures.
        Raises `MalformedError` for what is not followed.
        """
        for name in MEASURED:
            if name in self.sections:
                yield _measured(name.encode() + b"\0", f"section {name}: its name", source)
                content = self.sections[name]
                yield _measured(content, f"section {name}, {len(content)} bytes", source)
        if options.startswith("@") or not options.isprintable():
            raise _not_followed(f"the command line {options!r} chooses a profile or is no text")
        # In a TD with Secure Boot, the stub takes no command line from outside.
        given = "" if secure_boot else _cleaned(options)
        if given:
            data = (given + "\0").encode("utf-16-le")
            yield _measured(data, f"kernel command line from outside: {given}", "command line")
        command_line = given or self._command_line()
        if self.stub == NEW_STUB:
            if not _CONSOLE.search(command_line):
                raise _not_followed("its stub adds the console that it finds to the command line")
            yield from smbios_events(smbios_tables)
        elif not secure_boot:
            # With it, the stub keeps the firmware from checking the kernel, and so from measuring it.
            yield program_event(Image.parse(self.kernel), LINUX, source)
        yield from stub_events(self.kernel, command_line, self.initrd, terminated=True)

    def _command_line(self) -> str:
        text = self.sections.get(COMMAND_LINE, b"").partition(b"\0")[0].decode("latin-1")
        if text and not _cleaned(text):
            raise _not_followed("its command line is blank")
        return _cleaned(text)


def profile_texts(image: Image) -> list[tuple[bytes, bytes]]:
    """The os-release file and the description of each profile; empty where there is none."""
    starts = [at for at, section in enumerate(image.sections) if section.name == PROFILE]
    common = image.sections[: starts[0]] if starts else image.sections
    own = [image.sections[start:end] for start, end in pairwise([*starts, len(image.sections)])]
    return [(_text(image, OS_RELEASE, (*part, *common)), _text(image, PROFILE, part)) for part in own or [()]]


def _text(image: Image, name: str, sections: Sequence[Section]) -> bytes:
    found = next((section for section in sections if section.name == name), None)
    return image.data[found.offset :][: min(found.size, found.virtual_size)] if found else b""


def systemd_boot_version(image: Image) -> int | None:
    """The version of systemd-boot, where a program is it."""
    found = _LOADER.match(image.section(MAGIC_SECTION) or b"")
    return int(found[1]) if found else None


def _found(sections: Sequence[Section]) -> dict[str, Section]:
    """The first section of each name, of the first profile before those that are common to all."""
    starts = [at for at, section in enumerate(sections) if section.name == PROFILE]
    common = sections[: starts[0]] if starts else sections
    first = sections[starts[0] : starts[1] if len(starts) > 1 else None] if starts else ()
    ordered = (*reversed(common), *reversed(first))
    return {section.name: section for section in ordered if section.name in KNOWN}


def _in_memory(image: Image, section: Section) -> bytes:
    size = min(section.size, section.virtual_size)
    if section.virtual_size - size > MAX_ZEROS:
        raise _not_followed(f"its section {section.name} claims {section.virtual_size} bytes and has {size}")
    return image.data[section.offset : section.offset + size].ljust(section.virtual_size, b"\0")


def _cleaned(command_line: str) -> str:
    """The command line without blanks around it, control characters made spaces."""
    if not command_line.isascii():
        raise _not_followed("its command line has letters that are not ASCII")
    return _CONTROL.sub(" ", command_line).strip(" ")


def _measured(data: bytes, meaning: str, source: str) -> ExpectedEvent:
    return hashed("rtmr2", event_log.EV_IPL, data, meaning, source)


def smbios_events(tables: bytes) -> Iterator[ExpectedEvent]:
    for structure in smbios.structures(tables):
        kind = structure[0]
        if kind in SMBIOS_MEASURED:
            data = bytearray(structure)
            if kind == 1:
                data[WAKE_UP_TYPE_OFFSET] = 0
            meaning = f"SMBIOS structure of type {kind}"
            yield hashed("rtmr0", event_log.EV_IPL, bytes(data), meaning, "QEMU")


def _archive(name: str, content: bytes) -> bytes:
    """A cpio archive (newc) of one file in the directory `.extra`."""
    return (
        _member(1, 0o040555, ".extra", b"")
        + _member(2, 0o100444, f".extra/{name}", content)
        + _member(0, 0, "TRAILER!!!", b"")
    )


def _member(inode: int, mode: int, name: str, content: bytes) -> bytes:
    fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    # The stub writes hexadecimal digits in lower case, but for the one letter of the trailer's constant.
    digits = "".join(f"{field:08x}" for field in fields)
    if not inode:
        digits = digits.upper()
    return _padded(f"070701{digits}{name}\0".encode()) + _padded(content)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)


def _not_followed(reason: str) -> MalformedError:
    return MalformedError(f"unified kernel image: {reason}", hint=HINT)
