"""The TD HOB: the list of memory that the VMM hands to the firmware, which measures it into RTMR0.

Sources: UEFI Platform Initialization specification 1.8, volume 3, chapter 5 (hand-off blocks); QEMU
hw/i386/tdvf-hob.c, target/i386/kvm/tdx.c and hw/i386/pc_q35.c; edk2 OvmfPkg/IntelTdx/TdxHelperLib.
All integers are little-endian.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tdxstack.abi.binary import Reader
from tdxstack.abi.tdvf import TD_HOB, TEMP_MEM, Metadata
from tdxstack.errors import MalformedError, UsageError

HOB_HANDOFF = 0x0001
HOB_RESOURCE = 0x0003
HOB_END = 0xFFFF
HANDOFF_VERSION = 9

HEADER_SIZE = 8
HANDOFF_SIZE = 56
RESOURCE_SIZE = 48

SYSTEM_MEMORY = 0
"""Resource type of memory that the VMM has added to the TD."""
MEMORY_UNACCEPTED = 7
"""Resource type of memory that the TD still has to accept."""

PRESENT_INITIALIZED_TESTED = 7

LOW_MEMORY_LIMIT = 0xB0000000
LOW_MEMORY_IF_SPLIT = 0x80000000
HIGH_MEMORY = 1 << 32

DAMAGED = "the TD HOB is damaged or not one that QEMU wrote"


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource descriptor HOB, 48 bytes.

    | offset | size | field                                              |
    |--------|------|----------------------------------------------------|
    | 0      | 8    | header: type 3, length 48, reserved 0              |
    | 8      | 16   | owner GUID, zero                                   |
    | 24     | 4    | resource type: 0 system memory, 7 unaccepted       |
    | 28     | 4    | attributes: 7, present, initialized and tested     |
    | 32     | 8    | guest-physical address                             |
    | 40     | 8    | length in bytes                                    |
    """

    type: int
    address: int
    length: int
    attributes: int = PRESENT_INITIALIZED_TESTED
    owner: bytes = bytes(16)

    @property
    def end(self) -> int:
        """The first guest-physical address behind the resource."""
        return self.address + self.length

    @classmethod
    def _read(cls, reader: Reader) -> Resource:
        owner = reader.take(16, "owner")
        kind, attributes = reader.u32("resource type"), reader.u32("attributes")
        return cls(kind, reader.u64("address"), reader.u64("length"), attributes, owner)

    def to_bytes(self) -> bytes:
        """The 48 bytes of the HOB."""
        return b"".join(
            (
                _header(HOB_RESOURCE, RESOURCE_SIZE),
                self.owner,
                self.type.to_bytes(4, "little"),
                self.attributes.to_bytes(4, "little"),
                self.address.to_bytes(8, "little"),
                self.length.to_bytes(8, "little"),
            )
        )


@dataclass(frozen=True, slots=True)
class TdHob:
    """A HOB list of the form that QEMU writes: hand-off table, resource descriptors, end.

    The hand-off table (PHIT) is 56 bytes: header, u32 version 9, u32 boot mode 0, four u64 of memory
    bounds, all 0, and the u64 guest-physical address at which the list ends, which this class
    keeps as the `address` of the list's first byte.
    """

    address: int
    resources: tuple[Resource, ...]

    @classmethod
    def parse(cls, data: bytes | memoryview) -> TdHob:
        """Read a list that ends with its END HOB. Raises `MalformedError`, also for any other kind of HOB."""
        reader = Reader(data, "TD HOB")
        _expect_header(reader, HOB_HANDOFF, HANDOFF_SIZE)
        version, boot_mode = reader.u32("version"), reader.u32("boot mode")
        bounds, end = reader.take(32, "memory bounds"), reader.u64("end of list")
        if version != HANDOFF_VERSION or boot_mode or any(bounds):
            raise MalformedError(
                f"TD HOB: version {version}, boot mode {boot_mode} and memory bounds {bounds.hex()}"
                f" are not {HANDOFF_VERSION}, 0 and zeros",
                hint=DAMAGED,
            )
        resources = []
        while reader.peek(2) != HOB_END.to_bytes(2, "little"):
            _expect_header(reader, HOB_RESOURCE, RESOURCE_SIZE)
            resources.append(Resource._read(reader))
        _expect_header(reader, HOB_END, HEADER_SIZE)
        size = reader.offset
        reader.end()
        if end < size:
            raise MalformedError(f"TD HOB: {size} bytes cannot end at address 0x{end:x}", hint=DAMAGED)
        return cls(end - size, tuple(resources))

    def to_bytes(self) -> bytes:
        """The list with its END HOB."""
        return self.measured() + _header(HOB_END, HEADER_SIZE)

    def measured(self) -> bytes:
        """The bytes that the firmware hashes into RTMR0: the list without its END HOB."""
        size = HANDOFF_SIZE + RESOURCE_SIZE * len(self.resources) + HEADER_SIZE
        handoff = b"".join(
            (
                _header(HOB_HANDOFF, HANDOFF_SIZE),
                HANDOFF_VERSION.to_bytes(4, "little"),
                bytes(4 + 32),
                (self.address + size).to_bytes(8, "little"),
            )
        )
        return handoff + b"".join(resource.to_bytes() for resource in self.resources)


def build(metadata: Metadata, memory_size: int) -> TdHob:
    """The TD HOB that QEMU's q35 machine makes for a firmware and `memory_size` bytes of RAM.

    Raises `UsageError` where the firmware's sections do not lie within the RAM.
    """
    ram = [Resource(MEMORY_UNACCEPTED, *block) for block in q35_memory(memory_size)]
    for section in metadata.sections:
        if section.type in (TD_HOB, TEMP_MEM):
            ram = list(_accept(ram, section.address, section.size))
    ram.sort(key=lambda resource: resource.address)
    return TdHob(metadata.td_hob.address, tuple(ram))


def q35_memory(memory_size: int) -> tuple[tuple[int, int], ...]:
    """(address, length) of the RAM of QEMU's q35 machine, in bytes: below 4 GiB, and above if it is split."""
    if memory_size < LOW_MEMORY_LIMIT:
        return ((0, memory_size),)
    blocks = ((0, LOW_MEMORY_IF_SPLIT), (HIGH_MEMORY, memory_size - LOW_MEMORY_IF_SPLIT))
    return tuple(block for block in blocks if block[1])


def _accept(ram: Iterable[Resource], address: int, length: int) -> Iterable[Resource]:
    """`ram` with one range marked as added, cut out of the block that holds it."""
    end, found = address + length, False
    for block in ram:
        if not (block.address <= address and end <= block.end):
            yield block
            continue
        found = True
        if block.address < address:
            yield Resource(MEMORY_UNACCEPTED, block.address, address - block.address)
        yield Resource(SYSTEM_MEMORY, address, length)
        if end < block.end:
            yield Resource(MEMORY_UNACCEPTED, end, block.end - end)
    if not found:
        raise UsageError(
            f"the firmware's memory at 0x{address:x}, 0x{length:x} bytes, lies outside the TD's RAM",
            hint="give the TD more memory",
        )


def _header(kind: int, size: int) -> bytes:
    """A HOB header: u16 type, u16 length of the HOB, u32 reserved."""
    return kind.to_bytes(2, "little") + size.to_bytes(2, "little") + bytes(4)


def _expect_header(reader: Reader, kind: int, size: int) -> None:
    offset, header = reader.offset, reader.take(HEADER_SIZE, "HOB header")
    if header != _header(kind, size):
        raise MalformedError(
            f"TD HOB: the HOB header at offset {offset} is {header.hex()}, not {_header(kind, size).hex()}",
            hint=DAMAGED,
        )
