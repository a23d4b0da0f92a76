"""SEAM_SIGSTRUCT: Intel's signature over a TDX module, with what the SEAM loader needs to install it.

Source: SEAM Loader (SEAMLDR) Interface Specification 343755, SEAM_SIGSTRUCT; seam_sigstruct.h of the
published SEAM loader. All integers are little-endian, also the RSA numbers.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import date
from typing import ClassVar, Final

from tdxstack.abi.fixed import pack, unpack
from tdxstack.errors import MalformedError

DEBUG_SIGNED: Final = 1 << 31
"""Bit of the module type: signed with a debug key, which production CPUs refuse."""

_HINT: Final = "take the .sigstruct file that belongs to the module"
_LAYOUT = struct.Struct("<10I88s384sI384s48sBBQIBBHHHHHHH6sHHBBHII24sI1020s")
_HEADER: Final = {
    "header type": 6,
    "header length": 0xE1,
    "header version": 0x10000,
    "vendor": 0x8086,
    "size": 0x200,
    "key size": 0x60,
    "modulus size": 0x60,
    "exponent size": 1,
}
"""What the SEAM loader demands; sizes in units of 4 bytes."""
_SIGNED_HEADER: Final = 128
_BODY: Final = 900
_TABLE_ENTRIES: Final = 255


@dataclass(frozen=True, slots=True)
class SeamSigstruct:
    """SEAM_SIGSTRUCT, 2048 bytes.

    ======  ====  ==================================================================
    offset  size  field
    ======  ====  ==================================================================
    0       12    header type 6, length 0xE1, version 1.0
    12      4     module type; bit 31: debug-signed
    16      4     vendor 0x8086
    20      4     build date, BCD yyyymmdd
    24      16    sizes of the structure, key, modulus and exponent in 4 bytes
    40      88    reserved
    128     384   RSA modulus
    512     4     RSA exponent, 65537
    516     384   signature: PKCS #1 v1.5 with SHA-384 over bytes 0-127 and 900-2047
    900     48    SEAMHASH: SHA-384 of the module, its MRSEAM
    948     2     SVN, minor then major: TEE_TCB_SVN[0] and [1]
    950     8     attributes
    958     42    entry point, pages, TDMR and PAMT sizes, hand-off versions
    1000    24    reserved
    1024    4     number of CPUs in the table, at most 255
    1028    1020  table: CPUID.1:EAX of each CPU that may run the module
    ======  ====  ==================================================================
    """

    SIZE: ClassVar[int] = 2048

    module_type: int
    build_date: int
    header_reserved: bytes
    modulus: bytes
    exponent: int
    signature: bytes
    seamhash: bytes
    minor_svn: int
    major_svn: int
    attributes: int
    rip_offset: int
    stack_pages: int
    tls_pages: int
    keyhole_pages: int
    global_data_pages: int
    max_tdmrs: int
    max_reserved_per_tdmr: int
    pamt_entry_size_4k: int
    pamt_entry_size_2m: int
    pamt_entry_size_1g: int
    reserved1: bytes
    handoff_version: int
    min_update_handoff_version: int
    no_downgrade: int
    reserved2: int
    handoff_pages: int
    gdt_idt_offset: int
    fault_wrapper_offset: int
    reserved3: bytes
    cpuid_table: tuple[int, ...]
    table_padding: bytes

    @classmethod
    def parse(cls, data: bytes | memoryview) -> SeamSigstruct:
        """Read exactly 2048 bytes.

        Raises `MalformedError` on another length, on a header that the SEAM loader would refuse and on a
        table of more CPUs than there is room for.
        """
        values = unpack(_LAYOUT, data, "SEAM_SIGSTRUCT")
        kind, length, version, module_type, vendor, build_date, *sizes = values[:10]
        for (name, wanted), found in zip(
            _HEADER.items(), (kind, length, version, vendor, *sizes), strict=True
        ):
            if found != wanted:
                raise MalformedError(f"SEAM_SIGSTRUCT: {name} is 0x{found:x}, not 0x{wanted:x}", hint=_HINT)
        count, table = values[-2:]
        if count > _TABLE_ENTRIES:
            raise MalformedError(f"SEAM_SIGSTRUCT: its table is said to name {count} CPUs", hint=_HINT)
        cpus = struct.unpack_from(f"<{count}I", table)
        fields = (module_type, build_date, *values[10:-2], cpus, table[4 * count :])
        return cls(*fields)

    def to_bytes(self) -> bytes:
        """The 2048 bytes. Raises `MalformedError` if a field does not fill its place."""
        header = list(_HEADER.values())
        head = (*header[:3], self.module_type, header[3], self.build_date, *header[4:])
        table = b"".join(cpu.to_bytes(4, "little") for cpu in self.cpuid_table) + self.table_padding
        body = (
            self.header_reserved,
            self.modulus,
            self.exponent,
            self.signature,
            self.seamhash,
            self.minor_svn,
            self.major_svn,
            self.attributes,
            self.rip_offset,
            self.stack_pages,
            self.tls_pages,
            self.keyhole_pages,
            self.global_data_pages,
            self.max_tdmrs,
            self.max_reserved_per_tdmr,
            self.pamt_entry_size_4k,
            self.pamt_entry_size_2m,
            self.pamt_entry_size_1g,
            self.reserved1,
            self.handoff_version,
            self.min_update_handoff_version,
            self.no_downgrade,
            self.reserved2,
            self.handoff_pages,
            self.gdt_idt_offset,
            self.fault_wrapper_offset,
            self.reserved3,
        )
        return pack(_LAYOUT, (*head, *body, len(self.cpuid_table), table), "SEAM_SIGSTRUCT")

    def signed_bytes(self) -> bytes:
        """What the signature is over: the header without the key, and all that follows the signature."""
        data = self.to_bytes()
        return data[:_SIGNED_HEADER] + data[_BODY:]

    @property
    def debug_signed(self) -> bool:
        """Whether the module is signed with a debug key."""
        return bool(self.module_type & DEBUG_SIGNED)

    @property
    def built(self) -> date | None:
        """The build date; None if the field holds no date."""
        try:
            return date.fromisoformat(f"{self.build_date:08x}")
        except ValueError:
            return None

    def supports(self, cpu: int) -> bool:
        """Whether the module may run on a CPU, given its CPUID.1:EAX; the stepping does not count."""
        return any(cpu >> 4 == other >> 4 for other in self.cpuid_table)
