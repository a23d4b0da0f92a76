"""What shim brings along and logs."""

from __future__ import annotations

import hashlib
import struct

import pytest

from tdxstack.errors import MalformedError
from tdxstack.measurement.pe import Image
from tdxstack.measurement.shim import Shim, shim_events
from tests.unit.measurement import pe_images as made

KEY, REVOKED = b"\x30vendor key", b"revocations"
LEVEL = b"sbat,1,2025021800\nshim,4\n"


def shim_program(keys: bytes = KEY, revoked: bytes = REVOKED) -> bytes:
    vendor = struct.pack("<IIII", len(keys), len(revoked), 16, 16 + len(keys)) + keys + revoked
    levels = struct.pack("<III", 0, 8, 8 + len(LEVEL) + 1) + LEVEL + b"\0sbat,1,newest\n\0"
    return made.program({".text": b"shim", ".sbatlevel": levels, ".vendor_cert": vendor})


def test_shim_is_read_out_of_its_program() -> None:
    assert Shim.parse(Image.parse(shim_program())) == Shim(KEY, REVOKED, LEVEL)
    assert Shim.parse(Image.parse(made.program({".text": b"other"}))) is None


def test_events_with_secure_boot_keep_the_level_and_without_reset_it() -> None:
    for secure_boot, level in ((True, LEVEL), (False, b"sbat,1,2021030218\n")):
        events = shim_events(Shim(KEY, REVOKED, LEVEL), b"list", secure_boot=secure_boot)
        assert [(event.register, event.type_name) for event in events] == [
            ("rtmr2", "EV_IPL"),
            ("rtmr2", "EV_IPL"),
            ("rtmr0", "EV_EFI_VARIABLE_AUTHORITY"),
            ("rtmr2", "EV_IPL"),
        ]
        data = bytes.fromhex("50ab5d6046e00043abb63dd810dd8b23") + struct.pack("<QQ", 9, len(level))
        data += "SbatLevel".encode("utf-16-le") + level
        assert [event.digest for event in events] == [
            hashlib.sha384(one).digest() for one in (b"list", REVOKED, data, b"\1")
        ]


def test_a_shim_without_keys_logs_no_lists() -> None:
    events = shim_events(Shim(b"", b"", LEVEL), b"", secure_boot=True)
    assert [event.meaning for event in events] == ["shim's SBAT level", "shim's MokListTrusted"]


def test_a_broken_shim_is_named() -> None:
    broken = made.program({".vendor_cert": struct.pack("<IIII", 99, 0, 16, 16), ".sbatlevel": b""})
    with pytest.raises(MalformedError, match="not where they should be"):
        Shim.parse(Image.parse(broken))
