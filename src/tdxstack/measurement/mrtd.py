"""MRTD, the measurement of the memory that a TD starts with, computed from its firmware image.

Source: Intel TDX module ABI specification, TDH.MEM.PAGE.ADD and TDH.MR.EXTEND; section order and
coverage as QEMU and KVM take them from the TDVF metadata.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from tdxstack.abi.tdvf import PAGE_SIZE, Section, parse_image
from tdxstack.errors import MalformedError

CHUNK_SIZE = 256
"""Bytes that one TDH.MR.EXTEND measures."""

RECORD_SIZE = 128
MAX_MEMORY = 256 << 20
"""More than any firmware starts with; keeps hostile metadata from costing hours."""

PAGE_ADD = b"MEM.PAGE.ADD"
MR_EXTEND = b"MR.EXTEND"


@dataclass(frozen=True, slots=True)
class Mrtd:
    """The two values of MRTD that VMMs give the same firmware, 48 bytes each.

    `single_pass`: each page is added and measured before the next one is added. Upstream KVM and QEMU
    (and the emulated platform), Google, Canonical since 25.04.
    `two_pass`: all pages of a section are added, then all are measured. Intel's out-of-tree kernels
    of 2024, Canonical 24.04.
    """

    single_pass: bytes
    two_pass: bytes


def mrtd(firmware: bytes) -> Mrtd:
    """Compute MRTD from a TDVF image. It does not depend on memory size, CPUs or UEFI variables.

    Raises `MalformedError` for an image without sound TDX metadata.
    """
    sections = [section for section in parse_image(firmware).sections if section.added]
    if (size := sum(section.size for section in sections)) > MAX_MEMORY:
        raise MalformedError(
            f"TDVF metadata: the sections cover 0x{size:x} bytes, at most 0x{MAX_MEMORY:x} are reasonable",
            hint="the firmware image is damaged",
        )
    single, double = hashlib.sha384(), hashlib.sha384()
    for section in sections:
        if not section.measured:
            adds = b"".join(_record(PAGE_ADD, page) for page in _pages(section))
            single.update(adds)
            double.update(adds)
            continue
        data = _content(firmware, section)
        extends = []
        for page in _pages(section):
            add = _record(PAGE_ADD, page)
            extend = _extend_page(page, data[page - section.address :][:PAGE_SIZE])
            single.update(add + extend)
            double.update(add)
            extends.append(extend)
        double.update(b"".join(extends))
    return Mrtd(single.digest(), double.digest())


def _content(firmware: bytes, section: Section) -> memoryview:
    """The bytes of a measured section."""
    if section.data_size != section.size:
        raise MalformedError(
            f"TDVF metadata: the measured {section.name} section has 0x{section.data_size:x} bytes of data"
            f" for 0x{section.size:x} bytes of memory",
            hint="VMMs fill the rest in different ways, so that MRTD is not defined; use another firmware",
        )
    return memoryview(firmware)[section.data_offset : section.data_offset + section.data_size]


def _pages(section: Section) -> range:
    return range(section.address, section.end, PAGE_SIZE)


def _record(name: bytes, address: int) -> bytes:
    """What the TDX module hashes for an operation: its name, padded to 16 bytes, and the address (u64)."""
    return (name.ljust(16, b"\0") + address.to_bytes(8, "little")).ljust(RECORD_SIZE, b"\0")


def _extend_page(page: int, data: memoryview) -> bytes:
    """The 16 TDH.MR.EXTEND operations of a page, each followed by its data."""
    return b"".join(_extend_chunks(page, data))


def _extend_chunks(page: int, data: memoryview) -> Iterator[bytes | memoryview]:
    for offset in range(0, PAGE_SIZE, CHUNK_SIZE):
        yield _record(MR_EXTEND, page + offset)
        yield data[offset : offset + CHUNK_SIZE]
