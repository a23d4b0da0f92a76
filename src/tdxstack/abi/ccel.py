"""The ACPI CCEL table, which says where the firmware keeps the Confidential Computing event log."""

from __future__ import annotations

from dataclasses import dataclass

from tdxstack.abi.binary import Reader, exactly
from tdxstack.errors import MalformedError

SIZE = 56
SIGNATURE = b"CCEL"
CC_TYPE_TDX = 2
CC_SUBTYPE_TDX = 0

CHECKSUM_OFFSET = 9
DAMAGED = "the table is damaged"


@dataclass(frozen=True, slots=True)
class CcelTable:
    """ACPI CCEL table, 56 bytes, little-endian (ACPI specification 6.5, section 5.2.34).

    | offset | size | field                                              |
    |--------|------|----------------------------------------------------|
    | 0      | 4    | signature "CCEL"                                   |
    | 4      | 4    | length of the table, 56                            |
    | 8      | 1    | revision, 1                                        |
    | 9      | 1    | checksum: all bytes add up to 0 modulo 256         |
    | 10     | 6    | OEM id                                             |
    | 16     | 8    | OEM table id                                       |
    | 24     | 4    | OEM revision                                       |
    | 28     | 4    | creator id                                         |
    | 32     | 4    | creator revision                                   |
    | 36     | 1    | CC type, 2 = TDX                                   |
    | 37     | 1    | CC subtype, 0                                      |
    | 38     | 2    | reserved                                           |
    | 40     | 8    | LAML, the minimum length of the log area in bytes  |
    | 48     | 8    | LASA, the guest-physical address of the log area   |
    """

    revision: int
    oem_id: bytes
    oem_table_id: bytes
    oem_revision: int
    creator_id: bytes
    creator_revision: int
    cc_type: int
    cc_subtype: int
    reserved: int
    log_area_length: int
    log_area_address: int

    @classmethod
    def parse(cls, data: bytes | memoryview) -> CcelTable:
        """Read a table. Raises `MalformedError` on a wrong size, signature, length or checksum."""
        raw = exactly(bytes(data), SIZE, "CCEL table")
        reader = Reader(raw, "CCEL table")
        signature, length = reader.take(4, "signature"), reader.u32("length")
        if signature != SIGNATURE:
            raise MalformedError(
                f"CCEL table: signature is {signature!r}, not {SIGNATURE!r}",
                hint="give the ACPI table named CCEL",
            )
        if length != SIZE:
            raise MalformedError(f"CCEL table: length field is {length}, not {SIZE}", hint=DAMAGED)
        if sum(raw) & 0xFF:
            raise MalformedError(
                f"CCEL table: checksum 0x{raw[CHECKSUM_OFFSET]:02x} does not make the bytes add up to 0",
                hint=DAMAGED,
            )
        revision = reader.u8("revision")
        reader.take(1, "checksum")
        return cls(
            revision=revision,
            oem_id=reader.take(6, "OEM id"),
            oem_table_id=reader.take(8, "OEM table id"),
            oem_revision=reader.u32("OEM revision"),
            creator_id=reader.take(4, "creator id"),
            creator_revision=reader.u32("creator revision"),
            cc_type=reader.u8("CC type"),
            cc_subtype=reader.u8("CC subtype"),
            reserved=reader.u16("reserved"),
            log_area_length=reader.u64("LAML"),
            log_area_address=reader.u64("LASA"),
        )

    def to_bytes(self) -> bytes:
        """The 56 bytes of the table; length and checksum are computed."""
        raw = bytearray(
            SIGNATURE
            + SIZE.to_bytes(4, "little")
            + bytes((self.revision, 0))
            + self.oem_id
            + self.oem_table_id
            + self.oem_revision.to_bytes(4, "little")
            + self.creator_id
            + self.creator_revision.to_bytes(4, "little")
            + bytes((self.cc_type, self.cc_subtype))
            + self.reserved.to_bytes(2, "little")
            + self.log_area_length.to_bytes(8, "little")
            + self.log_area_address.to_bytes(8, "little")
        )
        raw[CHECKSUM_OFFSET] = -sum(raw) & 0xFF
        return bytes(raw)

    @property
    def is_tdx(self) -> bool:
        """Whether the log belongs to an Intel TD (CC type 2, subtype 0)."""
        return (self.cc_type, self.cc_subtype) == (CC_TYPE_TDX, CC_SUBTYPE_TDX)
