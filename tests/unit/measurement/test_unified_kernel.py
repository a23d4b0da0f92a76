"""Unified kernel images, and what their stub logs."""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import MalformedError
from tdxstack.measurement.expected import ExpectedEvent
from tdxstack.measurement.pe import Image
from tdxstack.measurement.unified_kernel import UnifiedKernel, systemd_boot_version
from tests.unit.measurement import pe_images as made

MAGIC = b"#### LoaderInfo: systemd-stub 257.13-1 ####"
NEW_MAGIC = b"#### LoaderInfo: systemd-stub 262.1-1 ####"
SYSTEM = bytes((1, 27, 0, 1)) + bytes(20) + b"\6\0\0" + b"QEMU\0\0"
OEM = bytes((11, 5, 0, 2, 1)) + b"text\0\0"
TABLES = bytes((0, 4, 9, 9, 0, 0)) + SYSTEM + OEM


def kernel(version: str = "6.12.0-test") -> bytes:
    data = bytearray(made.program({".text": bytes(1024)}))
    data[0x202:0x206] = b"HdrS"
    data[0x20E:0x210] = struct.pack("<H", 0x1F0)
    data[0x3F0 : 0x3F0 + len(version) + 1] = version.encode() + b"\0"
    return bytes(data)


def unified_program(sections: dict[str, bytes] | None = None, magic: bytes = MAGIC) -> bytes:
    return made.program({".text": b"stub", ".sdmagic": magic, ".linux": kernel(), **(sections or {})})


def events(
    sections: dict[str, bytes], options: str = "", *, secure_boot: bool = False, magic: bytes = MAGIC
) -> list[ExpectedEvent]:
    unified = UnifiedKernel.parse(Image.parse(unified_program(sections, magic)))
    assert unified is not None
    return list(unified.events(options, "uki.efi", secure_boot=secure_boot, smbios_tables=TABLES))


def ipl(data: bytes) -> tuple[str, str, bytes | None]:
    return "rtmr2", "EV_IPL", hashlib.sha384(data).digest()


def tag(data: bytes) -> tuple[str, str, bytes | None]:
    return "rtmr2", "EV_EVENT_TAG", hashlib.sha384(data).digest()


def plain(found: list[ExpectedEvent]) -> list[tuple[str, str, bytes | None]]:
    return [(event.register, event.type_name, event.digest) for event in found]


def test_sections_are_measured_in_the_stub_s_order_by_name_and_content() -> None:
    found = events({".initrd": b"initrd", ".pcrsig": b"signature", ".cmdline": b" a\tb \n"})
    assert plain(found)[:-1] == [
        ipl(b".linux\0"),
        ipl(kernel()),
        ipl(b".cmdline\0"),
        ipl(b" a\tb \n"),
        ipl(b".initrd\0"),
        ipl(b"initrd"),
        ("rtmr1", "EV_EFI_BOOT_SERVICES_APPLICATION", made.digest(kernel())),
        tag("a b\0".encode("utf-16-le")),
    ]
    assert found[-1].meaning.startswith("initrd, ")


def test_a_command_line_from_outside_counts_without_secure_boot_alone() -> None:
    sections = {".cmdline": b"inside"}
    outside, inside = (f"{word}\0".encode("utf-16-le") for word in ("out  side", "inside"))
    assert plain(events(sections, "  out  side "))[-3::2] == [ipl(outside), tag(outside)]
    assert plain(events(sections, "out  side", secure_boot=True))[-1] == tag(inside)
    assert len(events({}, "out", secure_boot=True)) == 2


def test_secure_boot_keeps_the_kernel_from_being_measured_again() -> None:
    assert not [event for event in events({}, secure_boot=True) if event.register == "rtmr1"]


def test_one_initrd_stays_as_it_is_and_several_are_padded() -> None:
    unified = UnifiedKernel.parse(Image.parse(unified_program({".initrd": b"abcde"})))
    assert unified is not None
    assert unified.initrd == b"abcde"
    unified = UnifiedKernel.parse(Image.parse(unified_program({".initrd": b"abcde", ".ucode": b"u"})))
    assert unified is not None
    assert unified.initrd == b"u\0\0\0abcde\0\0\0"


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_the_initrd_gets_sections_as_files(tmp_path: Path) -> None:
    unified = UnifiedKernel.parse(Image.parse(unified_program({".osrel": b"ID=x\n"})))
    assert unified is not None
    subprocess.run(["cpio", "-i", "--quiet"], input=unified.initrd, cwd=tmp_path, check=True)
    file = tmp_path / ".extra/os-release"
    assert file.read_bytes() == b"ID=x\n"
    assert file.stat().st_mode & 0o777 == 0o444
    assert (tmp_path / ".extra").stat().st_mode & 0o777 == 0o555


def test_the_new_stub_measures_smbios_and_enters_the_kernel_by_itself() -> None:
    line = "quiet console=hvc0"
    system = SYSTEM[:24] + b"\0" + SYSTEM[25:]
    for secure_boot in (False, True):
        found = events({".cmdline": line.encode()}, secure_boot=secure_boot, magic=NEW_MAGIC)
        assert plain(found)[-3:] == [
            ("rtmr0", "EV_IPL", hashlib.sha384(system).digest()),
            ("rtmr0", "EV_IPL", hashlib.sha384(OEM).digest()),
            tag(f"{line}\0".encode("utf-16-le")),
        ]
        assert not [event for event in found if event.register == "rtmr1"]
    with pytest.raises(MalformedError, match="adds the console"):
        events({".cmdline": b"quiet noconsole=1"}, magic=NEW_MAGIC)


def test_the_first_profile_covers_what_is_common_to_all() -> None:
    # A program is made of sections with different names here, so that some get theirs afterwards.
    sections = {".cmdline": b"common", ".osrel": b"ID=x"}
    sections |= {".profil1": b"ID=a", ".cmdlin1": b"first", ".profil2": b"ID=b", ".cmdlin2": b"second"}
    program = unified_program(sections)
    for digit in b"12":
        for name in (b".profile", b".cmdline"):
            program = program.replace(name[:-1] + bytes((digit,)), name)
    unified = UnifiedKernel.parse(Image.parse(program))
    assert unified is not None
    assert unified.sections[".cmdline"] == b"first"
    assert unified.sections[".profile"] == b"ID=a"
    assert unified.sections[".osrel"] == b"ID=x"


@pytest.mark.parametrize(
    ("sections", "magic", "problem"),
    [
        ({}, b"", "its stub is not systemd-stub"),
        ({}, b"#### LoaderInfo: systemd-stub 300.1 ####", "systemd-stub 300 is not followed"),
        ({".dtbauto": b"tree"}, MAGIC, "depends on the hardware"),
        ({".linux": b"text"}, MAGIC, "no bzImage"),
        ({".linux": kernel("5.7.0")}, MAGIC, "no bzImage of Linux 5.8"),
        ({".cmdline": b" \n"}, MAGIC, "blank"),
        ({".cmdline": b"\xc3\xa4"}, MAGIC, "not ASCII"),
    ],
)
def test_what_is_not_followed_is_named(sections: dict[str, bytes], magic: bytes, problem: str) -> None:
    with pytest.raises(MalformedError, match=problem):
        unified = UnifiedKernel.parse(Image.parse(unified_program(sections, magic)))
        assert unified is not None
        list(unified.events("", "uki.efi", secure_boot=False, smbios_tables=TABLES))


@pytest.mark.parametrize("options", ["@1 quiet", "quiet\ttwo"])
def test_options_that_are_no_plain_command_line_are_not_followed(options: str) -> None:
    with pytest.raises(MalformedError, match="chooses a profile or is no text"):
        events({}, options)


def test_a_section_that_claims_much_memory_is_refused() -> None:
    program = bytearray(unified_program({".initrd": b"i"}))
    at = program.index(b".initrd\0") + 8
    program[at : at + 4] = struct.pack("<I", 1 << 31)
    with pytest.raises(MalformedError, match=r"section .initrd claims 2147483648 bytes"):
        UnifiedKernel.parse(Image.parse(bytes(program)))


def test_other_programs() -> None:
    other = Image.parse(made.program({".sdmagic": b"#### LoaderInfo: systemd-boot 257.1 ####"}))
    assert UnifiedKernel.parse(other) is None
    assert systemd_boot_version(other) == 257
    assert systemd_boot_version(Image.parse(made.program({".text": b"x"}))) is None


@given(st.integers(0, 0x400), st.binary(min_size=1, max_size=8))
def test_damage_gives_an_image_or_an_error(at: int, damage: bytes) -> None:
    program = bytearray(unified_program({".cmdline": b"quiet", ".initrd": b"i"}))
    program[at : at + len(damage)] = damage
    try:
        unified = UnifiedKernel.parse(Image.parse(bytes(program)))
        if unified is not None:
            list(unified.events("", "uki.efi", secure_boot=False, smbios_tables=TABLES))
    except MalformedError:
        pass
