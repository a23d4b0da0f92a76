from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.abi.td_hob import MEMORY_UNACCEPTED, SYSTEM_MEMORY, Resource, TdHob, build, q35_memory
from tdxstack.abi.tdvf import TD_HOB, TEMP_MEM, Metadata, Section, parse_image
from tdxstack.errors import MalformedError, UsageError
from tests.unit.abi.tdvf_images import image

GIB = 1 << 30
METADATA = parse_image(image())

LOW_2_GIB = (
    (7, 0, 0x800000),
    (0, 0x800000, 0x6000),
    (7, 0x806000, 0x3000),
    (0, 0x809000, 0x2000),
    (0, 0x80B000, 0x2000),
    (7, 0x80D000, 0x3000),
    (0, 0x810000, 0x10000),
    (7, 0x820000, 0x80000000 - 0x820000),
)
"""(type, address, length) that QEMU gives this firmware in a TD of 2 GiB."""


def hob_bytes(resources: tuple[tuple[int, int, int], ...], address: int = 0x809000) -> bytes:
    """A list packed by struct, independently of the code under test."""
    end = address + 56 + 48 * len(resources) + 8
    raw = struct.pack("<HHI I I QQQQ Q", 1, 56, 0, 9, 0, 0, 0, 0, 0, end)
    for kind, start, length in resources:
        raw += struct.pack("<HHI 16s II QQ", 3, 48, 0, bytes(16), kind, 7, start, length)
    return raw + struct.pack("<HHI", 0xFFFF, 8, 0)


def test_two_gib() -> None:
    hob = build(METADATA, 2 * GIB)
    assert hob.to_bytes() == hob_bytes(LOW_2_GIB)
    assert len(hob.to_bytes()) == 448  # as seen from QEMU 11.1 for OVMF.inteltdx.ms.fd
    assert hob.measured() == hob_bytes(LOW_2_GIB)[:-8]


def test_memory_above_four_gib() -> None:
    hob = build(METADATA, 4 * GIB)
    assert hob.to_bytes() == hob_bytes((*LOW_2_GIB, (7, 4 * GIB, 2 * GIB)))
    assert len(hob.to_bytes()) == 496


@pytest.mark.parametrize(
    ("size", "blocks"),
    [
        (GIB, ((0, GIB),)),
        (0xB0000000 - 1, ((0, 0xB0000000 - 1),)),
        (0xB0000000, ((0, 0x80000000), (4 * GIB, 0x30000000))),
        (8 * GIB, ((0, 2 * GIB), (4 * GIB, 6 * GIB))),
    ],
)
def test_q35_memory(size: int, blocks: tuple[tuple[int, int], ...]) -> None:
    assert q35_memory(size) == blocks


def test_sections_that_touch_each_other_and_the_ends_of_the_memory() -> None:
    spans = ((TD_HOB, 0, 0x2000), (TEMP_MEM, 0x2000, 0x1000), (TEMP_MEM, 0xF000, 0x1000))
    metadata = Metadata(tuple(Section(0, 0, start, size, kind, 0) for kind, start, size in spans))
    assert [(one.type, one.address, one.length) for one in build(metadata, 0x10000).resources] == [
        (0, 0, 0x2000),
        (0, 0x2000, 0x1000),
        (7, 0x3000, 0xC000),
        (0, 0xF000, 0x1000),
    ]


def test_firmware_outside_the_memory() -> None:
    with pytest.raises(UsageError, match=r"0x810000.*outside the TD's RAM"):
        build(METADATA, 0x810000)


def test_parse_knows_its_own_address() -> None:
    assert TdHob.parse(hob_bytes(LOW_2_GIB, 0x1000)).address == 0x1000


GOOD = hob_bytes(LOW_2_GIB)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "HOB header needs 8 bytes"),
        (GOOD[:-8], "HOB header needs 8 bytes"),
        (GOOD + b"\0", "1 bytes follow the end"),
        (GOOD[:8] + b"\x08" + GOOD[9:], "version 8"),
        (GOOD[:12] + b"\1" + GOOD[13:], "boot mode 1"),
        (GOOD[:20] + b"\1" + GOOD[21:], "memory bounds"),
        (GOOD[:56] + b"\4" + GOOD[57:], "HOB header at offset 56 is 0400"),
        (GOOD[:48] + bytes(8) + GOOD[56:], "448 bytes cannot end at address 0x0"),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        TdHob.parse(data)


@given(st.integers(0x820, 1 << 24).map(lambda pages: pages << 12))
def test_the_list_covers_the_memory_without_gap_or_overlap(size: int) -> None:
    hob = build(METADATA, size)
    assert TdHob.parse(hob.to_bytes()) == hob
    assert sum(resource.length for resource in hob.resources) == size
    assert {resource.type for resource in hob.resources} == {SYSTEM_MEMORY, MEMORY_UNACCEPTED}
    starts = {start for start, _ in q35_memory(size)}
    for before, after in zip(hob.resources, hob.resources[1:], strict=False):
        assert before.end == after.address or (before.end < after.address and after.address in starts)


@given(st.binary(max_size=200), st.integers(0, 448), st.integers(0, 255))
def test_any_input(tail: bytes, offset: int, value: int) -> None:
    damaged = bytearray(GOOD + b"\0")
    damaged[offset] = value
    for data in (tail, GOOD[:56] + tail, bytes(damaged[:-1])):
        try:
            hob = TdHob.parse(data)
        except MalformedError:
            continue
        assert hob.to_bytes() == data


def test_digest_is_of_the_list_without_its_end() -> None:
    expected = hashlib.sha384(GOOD[:-8]).hexdigest()
    assert hashlib.sha384(build(METADATA, 2 * GIB).measured()).hexdigest() == expected


def test_resource_round_trip() -> None:
    resource = Resource(5, 1, 2, 3, b"o" * 16)
    assert TdHob.parse(TdHob(0, (resource,)).to_bytes()).resources == (resource,)
