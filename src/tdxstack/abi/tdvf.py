"""TDX metadata of a firmware image: which parts the VMM loads where, and what it measures into MRTD.

Sources: Intel TDX Virtual Firmware Design Guide 1.01, chapter 11; QEMU hw/i386/tdvf.c and
hw/i386/pc_sysfw_ovmf.c; edk2 OvmfPkg/ResetVector. All integers are little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from uuid import UUID

from tdxstack.abi.binary import Reader
from tdxstack.errors import MalformedError

PAGE_SIZE = 4096

TABLE_FOOTER_GUID = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
METADATA_OFFSET_GUID = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
BYTES_AFTER_TABLE = 32
GUID_SIZE = 16
ENTRY_FOOTER_SIZE = 2 + GUID_SIZE

SIGNATURE = b"TDVF"
VERSION = 1
DESCRIPTOR_SIZE = 16
SECTION_SIZE = 32

BFV = 0
"""Boot firmware volume: the code."""
CFV = 1
"""Configuration firmware volume: the UEFI variables."""
TD_HOB = 2
"""Where the VMM puts the list of the TD's memory."""
TEMP_MEM = 3
"""Zeroed memory for the first phase of the firmware."""

SECTION_NAMES = ("BFV", "CFV", "TD_HOB", "TEMP_MEM")
COPIED = (BFV, CFV)

ATTRIBUTE_MR_EXTEND = 1
ATTRIBUTE_PAGE_AUG = 2

NOT_TDVF = "take a firmware built for TDX, such as OVMF.inteltdx*.fd"
DAMAGED = "the firmware image is damaged or was not made for TDX"


@dataclass(frozen=True, slots=True)
class Section:
    """One section of the metadata, 32 bytes.

    | offset | size | field                                                        |
    |--------|------|--------------------------------------------------------------|
    | 0      | 4    | offset of the data in the image                              |
    | 4      | 4    | size of the data in bytes; 0 for TD_HOB and TEMP_MEM         |
    | 8      | 8    | guest-physical address                                       |
    | 16     | 8    | size in memory, bytes                                        |
    | 24     | 4    | type: 0 BFV, 1 CFV, 2 TD_HOB, 3 TEMP_MEM                     |
    | 28     | 4    | attributes: bit 0 MR.EXTEND (measured), bit 1 PAGE.AUG       |
    """

    data_offset: int
    data_size: int
    address: int
    size: int
    type: int
    attributes: int

    @property
    def name(self) -> str:
        """BFV, CFV, TD_HOB or TEMP_MEM."""
        return SECTION_NAMES[self.type]

    @property
    def end(self) -> int:
        """The first guest-physical address behind the section."""
        return self.address + self.size

    @property
    def measured(self) -> bool:
        """Whether the content goes into MRTD (the addresses always do, unless PAGE.AUG is set)."""
        return bool(self.attributes & ATTRIBUTE_MR_EXTEND)

    @property
    def added(self) -> bool:
        """Whether the VMM adds the pages before the TD runs; else the TD accepts them itself."""
        return not self.attributes & ATTRIBUTE_PAGE_AUG

    @classmethod
    def _read(cls, reader: Reader) -> Section:
        section = cls(
            data_offset=reader.u32("data offset"),
            data_size=reader.u32("raw data size"),
            address=reader.u64("memory address"),
            size=reader.u64("memory data size"),
            type=reader.u32("type"),
            attributes=reader.u32("attributes"),
        )
        section._check()
        return section

    def _check(self) -> None:
        if self.type >= len(SECTION_NAMES):
            raise _bad(f"section type {self.type} is unknown")
        if self.attributes & ~(ATTRIBUTE_MR_EXTEND | ATTRIBUTE_PAGE_AUG):
            raise _bad(f"{self.name} section has unknown attributes 0x{self.attributes:x}")
        if self.address % PAGE_SIZE:
            raise _bad(f"{self.name} section's address 0x{self.address:x} is not page aligned")
        if self.size % PAGE_SIZE or not self.size:
            raise _bad(f"{self.name} section's memory size 0x{self.size:x} is not a positive number of pages")
        if self.end > 1 << 64:
            raise _bad(f"{self.name} section 0x{self.address:x}+0x{self.size:x} leaves the address space")
        if self.data_size > self.size:
            raise _bad(
                f"{self.name} section's raw size 0x{self.data_size:x} exceeds its size 0x{self.size:x}"
            )
        if (self.data_size != 0) != (self.type in COPIED):
            raise _bad(f"{self.name} section has a raw size of 0x{self.data_size:x}")

    def to_bytes(self) -> bytes:
        """The 32 bytes of the section."""
        return b"".join(
            (
                self.data_offset.to_bytes(4, "little"),
                self.data_size.to_bytes(4, "little"),
                self.address.to_bytes(8, "little"),
                self.size.to_bytes(8, "little"),
                self.type.to_bytes(4, "little"),
                self.attributes.to_bytes(4, "little"),
            )
        )


@dataclass(frozen=True, slots=True)
class Metadata:
    """The TDVF descriptor and its sections, in the order in which the VMM adds and measures them.

    | offset | size | field                       |
    |--------|------|-----------------------------|
    | 0      | 4    | "TDVF"                      |
    | 4      | 4    | length, 16 + 32 per section |
    | 8      | 4    | version, 1                  |
    | 12     | 4    | number of sections          |
    | 16     | 32   | each section                |
    """

    sections: tuple[Section, ...]

    @classmethod
    def parse(cls, data: bytes | memoryview) -> Metadata:
        """Read a descriptor; bytes behind it are ignored, as the image goes on there.

        Raises `MalformedError` on a wrong signature, version or length, on a broken section, on
        sections that overlap in memory, and unless there is a BFV and exactly one TD_HOB.
        """
        reader = Reader(data, "TDVF metadata")
        signature = reader.take(4, "signature")
        length, version, count = reader.u32("length"), reader.u32("version"), reader.u32("section count")
        if signature != SIGNATURE:
            raise _bad(f"signature is {signature!r}, not {SIGNATURE!r}")
        if version != VERSION:
            raise _bad(f"version is {version}, not {VERSION}")
        if length != DESCRIPTOR_SIZE + SECTION_SIZE * count:
            raise _bad(f"length is {length}, {count} sections need {DESCRIPTOR_SIZE + SECTION_SIZE * count}")
        if reader.remaining < SECTION_SIZE * count:
            raise _bad(f"{count} sections do not fit into the {reader.remaining} bytes left in the image")
        sections = tuple(Section._read(reader) for _ in range(count))
        kinds = [section.type for section in sections]
        if BFV not in kinds or kinds.count(TD_HOB) != 1:
            raise _bad(f"there are {kinds.count(BFV)} BFV and {kinds.count(TD_HOB)} TD_HOB sections")
        for low, high in pairwise(sorted(sections, key=lambda section: section.address)):
            if low.end > high.address:
                raise _bad(
                    f"sections {low.name} at 0x{low.address:x} and {high.name} at 0x{high.address:x} overlap"
                )
        return cls(sections)

    def to_bytes(self) -> bytes:
        """The descriptor with its sections."""
        count = len(self.sections)
        length = DESCRIPTOR_SIZE + SECTION_SIZE * count
        head = SIGNATURE + b"".join(value.to_bytes(4, "little") for value in (length, VERSION, count))
        return head + b"".join(section.to_bytes() for section in self.sections)

    def of_type(self, kind: int) -> tuple[Section, ...]:
        """The sections of one type, in order."""
        return tuple(section for section in self.sections if section.type == kind)

    @property
    def td_hob(self) -> Section:
        """The one TD_HOB section."""
        return self.of_type(TD_HOB)[0]


def guid_table(image: bytes) -> tuple[tuple[UUID, bytes], ...]:
    """The GUIDed entries at the end of an OVMF image, the last in the file first.

    The table ends 32 bytes before the image does. Each entry is data, 2 bytes length of the whole
    entry, 16 bytes GUID; the footer is an entry whose length is that of the table.
    Raises `MalformedError` if there is no table or an entry does not fit in.
    """
    end = len(image) - BYTES_AFTER_TABLE
    if end < ENTRY_FOOTER_SIZE or UUID(bytes_le=image[end - GUID_SIZE : end]) != TABLE_FOOTER_GUID:
        raise MalformedError(
            f"the firmware image of {len(image)} bytes has no table of GUIDs at its end", hint=NOT_TDVF
        )
    table_size = _entry_length(image, end)
    if not ENTRY_FOOTER_SIZE <= table_size <= end:
        raise MalformedError(f"the firmware's table of GUIDs claims {table_size} bytes", hint=DAMAGED)
    start, at = end - table_size, end - ENTRY_FOOTER_SIZE
    entries = []
    while at > start:
        length = _entry_length(image, at) if at - start >= ENTRY_FOOTER_SIZE else 0
        if not ENTRY_FOOTER_SIZE <= length <= at - start:
            raise MalformedError(
                f"the firmware's table of GUIDs has an entry of {length} bytes that ends at offset 0x{at:x}",
                hint=DAMAGED,
            )
        entries.append(
            (UUID(bytes_le=image[at - GUID_SIZE : at]), bytes(image[at - length : at - ENTRY_FOOTER_SIZE]))
        )
        at -= length
    return tuple(entries)


def parse_image(image: bytes) -> Metadata:
    """Find and read the metadata of a firmware image, and check that its data lies within the image.

    Raises `MalformedError`.
    """
    entry = dict(reversed(guid_table(image))).get(METADATA_OFFSET_GUID)
    if entry is None:
        raise MalformedError("the firmware image has no TDX metadata", hint=NOT_TDVF)
    distance = Reader(entry, "TDX metadata offset").u32("offset")
    if not DESCRIPTOR_SIZE <= distance <= len(image):
        raise _bad(f"it is said to start {distance} bytes before the end of an image of {len(image)} bytes")
    metadata = Metadata.parse(memoryview(image)[len(image) - distance :])
    for section in metadata.sections:
        if section.data_offset + section.data_size > len(image):
            raise _bad(
                f"{section.name} section's data 0x{section.data_offset:x}+0x{section.data_size:x}"
                f" leaves the image of 0x{len(image):x} bytes"
            )
    return metadata


def _entry_length(image: bytes, end: int) -> int:
    """The length field of the GUIDed entry that ends at `end`."""
    return int.from_bytes(image[end - ENTRY_FOOTER_SIZE : end - GUID_SIZE], "little")


def _bad(problem: str) -> MalformedError:
    return MalformedError(f"TDVF metadata: {problem}", hint=DAMAGED)
