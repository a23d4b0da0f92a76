"""How much memory a TD had, told from the digest of its TD HOB."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from tdxstack.abi.td_hob import LOW_MEMORY_LIMIT, build
from tdxstack.abi.tdvf import TD_HOB, TEMP_MEM, Metadata, Section

MIB = 1 << 20
GIB = 1 << 30


def _layout(*temporary: tuple[int, int]) -> Metadata:
    sections = (*((*place, TEMP_MEM) for place in temporary), (0x809000, 0x2000, TD_HOB))
    return Metadata(tuple(Section(0, 0, address, size, kind, 0) for address, size, kind in sections))


_COMMON = ((0x800000, 0x6000), (0x80B000, 0x2000))
EDK2_LAYOUT = _layout(*_COMMON, (0x810000, 0x10000))
LAYOUTS = (
    EDK2_LAYOUT,
    _layout(*_COMMON, (0x811000, 0xF000)),
    _layout(*_COMMON, (0x814000, 0xC000), (0x820000, 0x10000)),
)
"""What the TDVF metadata of edk2 say of low memory: IntelTdxX64, and OvmfPkgX64 of 202211; OvmfPkgX64 of
202502; of 202608."""

LENGTH_SIZE = 8
"""Bytes at the end of a TD HOB: the length of the last and highest block, which alone follows the size."""


def memory_size(hob_digest: bytes) -> int | None:
    """The usual memory size, in bytes, whose TD HOB has this SHA-384; None if it is none of them.

    Tried are the sizes of QEMU's q35 machine with edk2's layouts: 512 MiB to 16 GiB in steps of 256 MiB,
    to 256 GiB in steps of 1 GiB, to 4 TiB in steps of 64 GiB.
    """
    sizes: list[int] = [*range(512 * MIB, 16 * GIB, 256 * MIB), *range(16 * GIB, 256 * GIB, GIB)]
    sizes += range(256 * GIB, 4096 * GIB + 1, 64 * GIB)
    split = [size >= LOW_MEMORY_LIMIT for size in sizes].index(True)
    for layout in LAYOUTS:
        for alike in (sizes[:split], sizes[split:]):
            for size, digest in zip(alike, _digests(layout, alike), strict=True):
                if digest == hob_digest:
                    return size
    return None


def _digests(layout: Metadata, sizes: list[int]) -> Iterator[bytes]:
    """Those of the TD HOBs of memory sizes that are all split at 4 GiB, or none."""
    hob = build(layout, sizes[0]).measured()
    begin, length = hob[:-LENGTH_SIZE], int.from_bytes(hob[-LENGTH_SIZE:], "little")
    for size in sizes:
        end = (length + size - sizes[0]).to_bytes(LENGTH_SIZE, "little")
        yield hashlib.sha384(begin + end).digest()
