"""The structures inside event data. All integers are little-endian.

Sources: TCG PC Client Platform Firmware Profile 1.06, section 10.2; UEFI specification 2.11.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from tdxstack.abi.binary import Reader
from tdxstack.errors import MalformedError

DAMAGED = "the event log is damaged"
MAX_NAME = 1 << 16
"""Units of 16 bits that a name or description may have; UEFI's have some dozens."""

MAX_TABLES = 4096
"""Tables that an event may name; firmware names a few."""


@dataclass(frozen=True, slots=True)
class UefiVariable:
    """UEFI_VARIABLE_DATA.

    | size | field                                        |
    |------|----------------------------------------------|
    | 16   | vendor GUID                                  |
    | 8    | length of the name in 16-bit units           |
    | 8    | length of the value in bytes                 |
    | n    | name, UTF-16, without a zero                 |
    | n    | value                                        |
    """

    vendor: UUID
    name: str
    data: bytes

    @classmethod
    def parse(cls, data: bytes) -> UefiVariable:
        """Read the data of an EV_EFI_VARIABLE_* event. Raises `MalformedError`."""
        reader = Reader(data, "UEFI variable")
        variable = cls.read(reader)
        reader.end()
        return variable

    @classmethod
    def read(cls, reader: Reader) -> UefiVariable:
        """Read one from `reader`: old versions of shim log some bytes after it. Raises `MalformedError`."""
        vendor = UUID(bytes_le=reader.take(16, "vendor GUID"))
        name_length, size = reader.u64("name length"), reader.u64("value length")
        if name_length > MAX_NAME:
            raise MalformedError(f"UEFI variable: a name of {name_length} units at offset 32", hint=DAMAGED)
        name = reader.take(2 * name_length, "name").decode("utf-16-le", "surrogatepass")
        return cls(vendor, name, reader.take(size, "value"))

    def to_bytes(self) -> bytes:
        """The structure as it is logged."""
        name = self.name.encode("utf-16-le", "surrogatepass")
        return b"".join(
            (
                self.vendor.bytes_le,
                (len(name) // 2).to_bytes(8, "little"),
                len(self.data).to_bytes(8, "little"),
                name,
                self.data,
            )
        )


@dataclass(frozen=True, slots=True)
class BootOption:
    """EFI_LOAD_OPTION, the value of a Boot#### variable.

    | size | field                                        |
    |------|----------------------------------------------|
    | 4    | attributes: bit 0 active, bits 8-12 category |
    | 2    | length of the device path in bytes           |
    | n    | description, UTF-16 with a zero at its end   |
    | n    | device path                                  |
    | n    | optional data, to the end                    |
    """

    attributes: int
    description: str
    device_path: bytes
    optional_data: bytes

    @classmethod
    def parse(cls, data: bytes) -> BootOption:
        """Read a Boot#### variable's value. Raises `MalformedError`."""
        reader = Reader(data, "boot option")
        attributes, path_length = reader.u32("attributes"), reader.u16("device path length")
        end = _utf16_zero(reader.peek(2 * MAX_NAME))
        description = reader.take(end, "description").decode("utf-16-le", "surrogatepass")
        reader.take(2, "end of description")
        return cls(attributes, description, reader.take(path_length, "device path"), reader.rest())

    def to_bytes(self) -> bytes:
        """The value of the variable."""
        return b"".join(
            (
                self.attributes.to_bytes(4, "little"),
                len(self.device_path).to_bytes(2, "little"),
                self.description.encode("utf-16-le", "surrogatepass"),
                b"\0\0",
                self.device_path,
                self.optional_data,
            )
        )


@dataclass(frozen=True, slots=True)
class ImageLoad:
    """UEFI_IMAGE_LOAD_EVENT: a PE image that firmware or a boot loader loaded.

    | size | field                                        |
    |------|----------------------------------------------|
    | 8    | location in memory                           |
    | 8    | length in memory, in bytes                   |
    | 8    | link-time address                            |
    | 8    | length of the device path in bytes           |
    | n    | device path                                  |
    """

    location: int
    length: int
    link_time_address: int
    device_path: bytes

    @classmethod
    def parse(cls, data: bytes) -> ImageLoad:
        """Read the data of an EV_EFI_*_APPLICATION or _DRIVER event. Raises `MalformedError`."""
        reader = Reader(data, "image load event")
        location, length, address = (reader.u64(name) for name in ("location", "length", "link-time address"))
        path = reader.take(reader.u64("device path length"), "device path")
        reader.end()
        return cls(location, length, address, path)

    def to_bytes(self) -> bytes:
        """The structure as it is logged."""
        numbers = (self.location, self.length, self.link_time_address, len(self.device_path))
        return b"".join(number.to_bytes(8, "little") for number in numbers) + self.device_path


@dataclass(frozen=True, slots=True)
class GptPartition:
    """An entry of a GUID partition table, as long as the table says (128 bytes or more).

    | offset | size | field                                      |
    |--------|------|--------------------------------------------|
    | 0      | 16   | type GUID                                  |
    | 16     | 16   | unique GUID                                |
    | 32     | 8    | first block                                |
    | 40     | 8    | last block                                 |
    | 48     | 8    | attributes                                 |
    | 56     | 72   | name, UTF-16, zeros behind it              |
    """

    MIN_SIZE: ClassVar[int] = 128

    raw: bytes

    @property
    def type(self) -> UUID:
        """What the partition is for."""
        return UUID(bytes_le=self.raw[:16])

    @property
    def guid(self) -> UUID:
        """Which partition it is."""
        return UUID(bytes_le=self.raw[16:32])

    @property
    def blocks(self) -> tuple[int, int]:
        """First and last block, the last one included."""
        return int.from_bytes(self.raw[32:40], "little"), int.from_bytes(self.raw[40:48], "little")

    @property
    def name(self) -> str:
        """The name, without the zeros."""
        return self.raw[56:128].decode("utf-16-le", "replace").partition("\0")[0]


@dataclass(frozen=True, slots=True)
class GptTable:
    """UEFI_GPT_DATA: the header (92 bytes), the number of partitions (8), their entries."""

    HEADER_SIZE: ClassVar[int] = 92

    header: bytes
    partitions: tuple[GptPartition, ...]

    @classmethod
    def parse(cls, data: bytes) -> GptTable:
        """Read the data of an EV_EFI_GPT_EVENT. Raises `MalformedError`."""
        reader = Reader(data, "GPT event")
        header = reader.take(cls.HEADER_SIZE, "header")
        entry_size = int.from_bytes(header[84:88], "little")
        count = reader.u64("partitions")
        if entry_size < GptPartition.MIN_SIZE or entry_size * count != reader.remaining:
            raise MalformedError(f"GPT event: {count} partitions of {entry_size} bytes", hint=DAMAGED)
        entries = tuple(GptPartition(reader.take(entry_size, "partition")) for _ in range(count))
        return cls(header, entries)

    @property
    def disk(self) -> UUID:
        """Which disk it is."""
        return UUID(bytes_le=self.header[56:72])

    def to_bytes(self) -> bytes:
        """The structure as it is logged."""
        count = len(self.partitions).to_bytes(8, "little")
        return self.header + count + b"".join(partition.raw for partition in self.partitions)


@dataclass(frozen=True, slots=True)
class FirmwareBlob:
    """UEFI_PLATFORM_FIRMWARE_BLOB: base (8), length (8); in BLOB2, 1 byte of size and a name before them."""

    name: bytes | None
    base: int
    length: int

    @classmethod
    def parse(cls, data: bytes, *, named: bool) -> FirmwareBlob:
        """Read a BLOB2 if `named`, else a BLOB. Raises `MalformedError`."""
        reader = Reader(data, "firmware blob")
        name = reader.take(reader.u8("name size"), "name") if named else None
        base, length = reader.u64("base"), reader.u64("length")
        reader.end()
        return cls(name, base, length)

    def to_bytes(self) -> bytes:
        """The structure as it is logged."""
        name = b"" if self.name is None else bytes((len(self.name),)) + self.name
        return name + self.base.to_bytes(8, "little") + self.length.to_bytes(8, "little")


@dataclass(frozen=True, slots=True)
class HandoffTables:
    """UEFI_HANDOFF_TABLE_POINTERS: number of tables (8), then for each its GUID (16) and address (8).

    In POINTERS2, 1 byte of size and a name come before them.
    """

    name: bytes | None
    tables: tuple[tuple[UUID, int], ...]

    @classmethod
    def parse(cls, data: bytes, *, named: bool) -> HandoffTables:
        """Read a POINTERS2 if `named`, else POINTERS. Raises `MalformedError`."""
        reader = Reader(data, "hand-off tables")
        name = reader.take(reader.u8("name size"), "name") if named else None
        count = reader.u64("number of tables")
        if count > MAX_TABLES or count * 24 != reader.remaining:
            raise MalformedError(f"hand-off tables: {count} tables in {reader.remaining} bytes", hint=DAMAGED)
        tables = tuple((UUID(bytes_le=reader.take(16, "GUID")), reader.u64("address")) for _ in range(count))
        return cls(name, tables)

    def to_bytes(self) -> bytes:
        """The structure as it is logged."""
        name = b"" if self.name is None else bytes((len(self.name),)) + self.name
        tables = (guid.bytes_le + address.to_bytes(8, "little") for guid, address in self.tables)
        return name + len(self.tables).to_bytes(8, "little") + b"".join(tables)


@dataclass(frozen=True, slots=True)
class TaggedEvent:
    """TCG_PCClientTaggedEvent: tag (4), size (4), data; who defines the tag defines the data."""

    tag: int
    data: bytes

    @classmethod
    def parse(cls, data: bytes) -> TaggedEvent:
        """Read the data of an EV_EVENT_TAG event. Raises `MalformedError`."""
        reader = Reader(data, "tagged event")
        tag, body = reader.u32("tag"), reader.take(reader.u32("size"), "data")
        reader.end()
        return cls(tag, body)

    def to_bytes(self) -> bytes:
        """The structure as it is logged."""
        return self.tag.to_bytes(4, "little") + len(self.data).to_bytes(4, "little") + self.data


def _utf16_zero(data: bytes) -> int:
    """Offset of the first 16-bit zero at an even offset."""
    at = data.find(b"\0\0")
    while at >= 0 and at % 2:
        at = data.find(b"\0\0", at + 1)
    if at < 0:
        raise MalformedError("boot option: its description has no end", hint=DAMAGED)
    return at
