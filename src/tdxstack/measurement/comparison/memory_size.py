"""How much memory a TD had, told from the digest of its TD HOB."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from tdxstack.abi.td_hob import build
from tdxstack.abi.tdvf import TD_HOB, TEMP_MEM, Metadata, Section

MIB = 1 << 20
GIB = 1 << 30

EDK2_LAYOUT = Metadata(
    tuple(
        Section(0, 0, address, size, kind, 0)
        for address, size, kind in (
            (0x810000, 0x10000, TEMP_MEM),
            (0x80B000, 0x2000, TEMP_MEM),
            (0x809000, 0x2000, TD_HOB),
            (0x800000, 0x6000, TEMP_MEM),
        )
    )
)
"""What the TDVF metadata of edk2's IntelTdxX64 and OvmfPkgX64 say of low memory (edk2 OvmfPkg, 202211 on)."""


def memory_size(hob_digest: bytes) -> int | None:
    """The usual memory size, in bytes, whose TD HOB has this SHA-384; None if it is none of them.

    Tried are the sizes of QEMU's q35 machine with edk2's layout: 512 MiB to 16 GiB in steps of 256 MiB,
    to 256 GiB in steps of 1 GiB, to 4 TiB in steps of 64 GiB.
    """
    return next((size for size in _usual_sizes() if _digest(size) == hob_digest), None)


def _usual_sizes() -> Iterator[int]:
    yield from range(512 * MIB, 16 * GIB, 256 * MIB)
    yield from range(16 * GIB, 256 * GIB, GIB)
    yield from range(256 * GIB, 4096 * GIB + 1, 64 * GIB)


def _digest(size: int) -> bytes:
    return hashlib.sha384(build(EDK2_LAYOUT, size).measured()).digest()
