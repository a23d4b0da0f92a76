"""What an EFI program is said to be, and whose keys let it start."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.measurement.pe import Image
from tdxstack.measurement.shim import Shim
from tdxstack.prediction.programs import (
    GRUB,
    KERNEL,
    OTHER,
    SHIM,
    UNIFIED_KERNEL,
    KeyList,
    describe_program,
    shim_keys,
)
from tests.unit.firmware.test_signatures import database, signed, signer
from tests.unit.measurement import pe_images as made
from tests.unit.measurement.test_shim import shim_program
from tests.unit.measurement.test_unified_kernel import unified_program
from tests.unit.prediction import test_boot

OURS, OTHERS = signer("ours"), signer("others")


def test_a_signed_program_starts_by_its_signers_key_unless_it_is_revoked() -> None:
    program = signed(OURS)
    lists = {
        "firmware": KeyList(database(OTHERS, OURS)),
        "revoked": KeyList(database(OURS), database(OURS)),
        "own keys": KeyList(database(OTHERS)),
    }
    found = describe_program("a.efi", program.data, lists)
    assert (found.path, found.kind, found.problem) == ("a.efi", OTHER, "")
    assert found.signed_by == ["ours"]
    assert found.accepted_by == {"firmware": "ours"}
    assert found.digest == program.digest("sha256").hex()


def test_a_changed_program_starts_by_nobodys_key() -> None:
    changed = bytearray(signed(OURS).data)
    changed[made.HEADERS_SIZE] ^= 1
    found = describe_program("a.efi", bytes(changed), {"firmware": KeyList(database(OURS))})
    assert (found.signed_by, found.accepted_by) == (["ours"], {})


@pytest.mark.parametrize(
    ("program", "kind", "version"),
    [
        (shim_program(), SHIM, ""),
        (test_boot.GRUB, GRUB, ""),
        (test_boot.systemd_boot(), "systemd-boot", "257"),
        (test_boot.kernel("6.12.0-test (builder) #1"), KERNEL, "6.12.0-test"),
        (unified_program(), UNIFIED_KERNEL, "6.12.0-test"),
        (made.program({".text": b"x", ".sbat": b"sbat,1,a,b,1,u\nx,1,V,x,2.5-1,u\n\0"}), OTHER, "2.5-1"),
        (made.program({".text": b"x", ".sbat": b"no,columns\n\xff,1,V,x,\x1b[1m,u\n"}), OTHER, ""),
    ],
)
def test_kinds(program: bytes, kind: str, version: str) -> None:
    found = describe_program("a.efi", program, {})
    assert (found.kind, found.problem) == (kind, "")
    assert found.version == version


def test_lists_that_are_broken_leave_the_rest_standing() -> None:
    found = describe_program("a.efi", signed(OURS).data, {"firmware": KeyList(b"garbage")})
    assert "signature lists" in found.problem
    assert (found.signed_by, found.accepted_by) == (["ours"], None)


def test_what_is_no_program_says_why() -> None:
    assert "PE" in describe_program("a.efi", b"#!/bin/sh", {}).problem


def test_the_keys_of_a_shim() -> None:
    shim = Shim.parse(Image.parse(shim_program()))
    assert shim is not None
    found = shim_keys(shim_program(), b"dbx")
    assert found is not None
    assert shim.vendor_keys in found.allowed
    assert found.revoked == b"dbx" + shim.vendor_revocations
    assert shim_keys(test_boot.GRUB) is None
    assert shim_keys(b"") is None


@given(st.binary(max_size=200), st.integers(0, 2000))
def test_any_bytes_are_described(noise: bytes, at: int) -> None:
    program = bytearray(signed(OURS).data)
    program[at : at + len(noise)] = noise
    describe_program("a.efi", bytes(program), {"firmware": KeyList(database(OURS))})
