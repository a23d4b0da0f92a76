from __future__ import annotations

import struct
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.abi.tdvf import Metadata, guid_table, parse_image
from tdxstack.errors import MalformedError
from tests.unit.abi import tdvf_images
from tests.unit.abi.tdvf_images import SECTIONS, Section, descriptor, entry, image

OFFSET_GUID = "e47a6535-984a-4798-865e-4685a7bf8ec2"


def test_sections() -> None:
    metadata = parse_image(image())
    assert [section.name for section in metadata.sections] == [
        "BFV",
        "CFV",
        "TEMP_MEM",
        "TEMP_MEM",
        "TD_HOB",
        "TEMP_MEM",
    ]
    assert [section.measured for section in metadata.sections] == [True, False, False, False, False, False]
    assert all(section.added for section in metadata.sections)
    assert metadata.td_hob.address == 0x809000
    assert metadata.to_bytes() == descriptor()


def test_guid_table_is_read_from_its_end() -> None:
    assert guid_table(image()) == (
        (UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e"), b"\1\2\3\4"),
        (UUID(OFFSET_GUID), struct.pack("<I", 0x400)),
    )


def changed(number: int, **fields: int) -> tuple[Section, ...]:
    names = ("data_offset", "data_size", "address", "size", "type", "attributes")
    section = dict(zip(names, SECTIONS[number], strict=True)) | fields
    new = tuple(section[name] for name in names)
    assert len(new) == 6
    return (*SECTIONS[:number], new, *SECTIONS[number + 1 :])


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (descriptor(version=2), "version is 2"),
        (b"TDVX" + descriptor()[4:], "signature is b'TDVX'"),
        (descriptor(length=100), "length is 100, 6 sections need 208"),
        (descriptor(SECTIONS[1:]), "0 BFV and 1 TD_HOB"),
        (descriptor(SECTIONS[:2]), "1 BFV and 0 TD_HOB"),
        (descriptor((*SECTIONS, (0, 0, 0x900000, 0x1000, 2, 0))), "1 BFV and 2 TD_HOB"),
        (descriptor(changed(0, type=4)), "section type 4 is unknown"),
        (descriptor(changed(0, attributes=5)), "BFV section has unknown attributes 0x5"),
        (descriptor(changed(2, address=0x810800)), "0x810800 is not page aligned"),
        (descriptor(changed(2, size=0x800)), "memory size 0x800"),
        (descriptor(changed(2, size=0)), "memory size 0x0"),
        (descriptor(changed(2, address=(1 << 64) - 0x1000)), "leaves the address space"),
        (descriptor(changed(0, data_size=0x7000)), "raw size 0x7000 exceeds its size 0x6000"),
        (descriptor(changed(0, data_size=0)), "BFV section has a raw size of 0x0"),
        (descriptor(changed(4, data_size=0x1000)), "TD_HOB section has a raw size of 0x1000"),
        (descriptor(changed(0, data_offset=0x2001)), "leaves the image"),
        (descriptor(changed(3, address=0x80A000)), "TD_HOB at 0x809000 and TEMP_MEM at 0x80a000 overlap"),
    ],
)
def test_broken_metadata_is_refused(metadata: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message) as caught:
        parse_image(image(metadata))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("firmware", "message"),
    [
        (b"", "has no table of GUIDs"),
        (bytes(0x1000), "has no table of GUIDs"),
        (image(entries=b""), "has no TDX metadata"),
        (image(entries=entry(OFFSET_GUID, b"\1\2")), "offset needs 4 bytes"),
        (image(entries=entry(OFFSET_GUID, struct.pack("<I", 0x8001))), "start 32769 bytes before the end"),
        (image(entries=entry(OFFSET_GUID, struct.pack("<I", 8))), "start 8 bytes before the end"),
        (image(entries=b"\0" * 18), "an entry of 0 bytes"),
        (image(entries=struct.pack("<H16s", 17, b"")), "an entry of 17 bytes"),
        (image(entries=struct.pack("<H16s", 19, b"")), "an entry of 19 bytes"),
        (image(entries=b"\1"), "an entry of 0 bytes"),
    ],
)
def test_broken_image_is_refused(firmware: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        parse_image(firmware)


@pytest.mark.parametrize("length", [0, 17, 0x7FFF])
def test_table_of_impossible_length_is_refused(length: int) -> None:
    footer = tdvf_images.table(b"", length)
    with pytest.raises(MalformedError, match=f"claims {length} bytes"):
        guid_table(bytes(100) + footer + bytes(32))


def test_limits_are_inclusive() -> None:
    last = changed(2, address=(1 << 64) - 0x10000)
    assert Metadata.parse(descriptor(last)).sections[2].end == 1 << 64
    with pytest.raises(MalformedError, match="6 sections do not fit into the 191 bytes"):
        Metadata.parse(descriptor()[:-1])
    assert guid_table(tdvf_images.table(b"") + bytes(32)) == ()
    with pytest.raises(MalformedError, match="has no table of GUIDs"):
        guid_table(tdvf_images.table(b"")[1:] + bytes(32))


def test_more_sections_than_bytes() -> None:
    count = 0x07FFFFFF
    head = struct.pack("<4sIII", b"TDVF", (16 + 32 * count) & 0xFFFFFFFF, 1, count)
    with pytest.raises(MalformedError, match=f"{count} sections do not fit"):
        Metadata.parse(head + bytes(64))


sections = st.tuples(
    st.integers(0, 0x9000),
    st.integers(0, 3).map(lambda pages: pages * 0x800),
    st.integers(0, 64).map(lambda page: page << 12),
    st.integers(0, 3).map(lambda pages: pages << 12),
    st.integers(0, 4),
    st.integers(0, 4),
)


@given(st.lists(sections, max_size=6))
def test_any_sections(drawn: list[Section]) -> None:
    raw = descriptor(tuple(drawn))
    try:
        metadata = Metadata.parse(raw)
    except MalformedError:
        return
    assert metadata.to_bytes() == raw
    pages = [page for section in metadata.sections for page in range(section.address, section.end, 4096)]
    assert len(pages) == len(set(pages))


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_image(head: bytes, entries: bytes) -> None:
    for raw in (head, head + tdvf_images.table(entries) + bytes(32)):
        try:
            parse_image(raw)
        except MalformedError:
            continue
