"""The SMBIOS table that is measured."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import MalformedError
from tdxstack.measurement import smbios

STRINGS = smbios.FirmwareStrings("vendor", "1.0", "01/02/2026")
SYSTEM = b"\x01\x1b\x00\x01" + bytes((1, 2, 0, 3)) + b"U" * 16 + b"\x06\0\0" + b"maker\0thing\0serial\0\0"
END = b"\x7f\x04\x00\x7f\0\0"


def test_the_firmware_adds_itself_behind_qemus_structures_and_ends_the_table() -> None:
    table = smbios.published(SYSTEM + END, STRINGS)
    first, own, last = smbios.structures(table)
    assert first == SYSTEM
    assert own[:4] == b"\0\x1a\0\0"
    assert own[26:] == b"vendor\x001.0\x0001/02/2026\0\0"
    assert last == b"\x7f\x04\xff\xfe\0\0"


def test_a_structure_of_qemus_own_replaces_the_firmwares() -> None:
    qemu = b"\0\x1a\0\0" + bytes(22) + b"\0\0"
    assert [structure[0] for structure in smbios.structures(smbios.published(qemu + END, STRINGS))] == [
        0,
        127,
    ]


def test_the_handle_of_the_firmwares_structure_is_the_first_free_one() -> None:
    taken = b"\x20\x04\0\0\0\0"
    own = list(smbios.structures(smbios.published(taken + END, STRINGS)))[1]
    assert own[2:4] == b"\1\0"


def test_what_tells_machines_apart_is_blanked() -> None:
    masked = smbios.measured(SYSTEM)
    assert masked[4:8] == bytes((1, 2, 0, 0))
    assert masked[8:24] == bytes(16)
    assert masked[24] == 0
    assert masked.endswith(b"maker\0thing\0      \0\0")
    assert len(masked) == len(SYSTEM)


def test_of_other_kinds_only_the_header_counts() -> None:
    for kind in (11, 128, 255):
        assert smbios.measured(bytes((kind, 6, 1, 0, 9, 9)) + b"text\0\0") == bytes((kind, 6, 1)) + bytes(9)


def test_fields_behind_a_short_structure_are_left_alone() -> None:
    short = b"\x04\x0a\0\0" + b"\x55" * 6 + b"\0\0"
    assert smbios.measured(short) == short


def test_a_structure_without_end_is_refused() -> None:
    for broken in (b"\x01\x1b\0\0abc", b"\x01\x02\0\0\0\0", b"\x01"):
        with pytest.raises(MalformedError, match="has no end"):
            smbios.measured(broken)


@given(st.binary(max_size=300))
def test_any_bytes_are_masked_or_refused(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        assert len(smbios.measured(data)) == len(data)
