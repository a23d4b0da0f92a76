"""MRTD against the physical limit: SHA-384 over as many bytes."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from tdxstack.measurement.mrtd import mrtd
from tests.unit.abi.tdvf_images import descriptor, image

SIZE = 4 << 20
VARIABLES = 0x84000
"""Bytes at the start of the image that are added and not measured, as in Debian's OVMF.inteltdx.ms.fd."""

BASE = (1 << 32) - SIZE
CODE = SIZE - VARIABLES
SECTIONS = (
    (VARIABLES, CODE, BASE + VARIABLES, CODE, 0, 1),
    (0, VARIABLES, BASE, VARIABLES, 1, 0),
    (0, 0, 0x809000, 0x2000, 2, 0),
)
FIRMWARE = image(descriptor(SECTIONS), size=SIZE)
GROUP = "MRTD of a 4 MiB firmware in both orders"


@pytest.mark.benchmark(group=GROUP)
def test_mrtd(benchmark: Any) -> None:
    benchmark(mrtd, FIRMWARE)


@pytest.mark.benchmark(group=GROUP)
def test_limit_sha384_of_as_many_bytes(benchmark: Any) -> None:
    # 128 bytes for each page that is added; for each 256 bytes that are measured, 128 more and the bytes.
    data = bytes(SIZE // 4096 * 128 + CODE // 256 * (128 + 256))

    def hash_twice() -> None:
        hashlib.sha384(data).digest()
        hashlib.sha384(data).digest()

    benchmark(hash_twice)
