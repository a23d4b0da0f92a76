"""The memory size that a TD HOB's digest tells."""

from __future__ import annotations

import hashlib

import pytest

from tdxstack.abi.td_hob import build
from tdxstack.abi.tdvf import Metadata
from tdxstack.measurement.comparison.memory_size import GIB, LAYOUTS, MIB, memory_size


def digest(layout: Metadata, size: int) -> bytes:
    return hashlib.sha384(build(layout, size).measured()).digest()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "size", [512 * MIB, 2 * GIB, 2816 * MIB, 3584 * MIB, 16 * GIB, 255 * GIB, 256 * GIB, 4096 * GIB]
)
def test_a_usual_size_is_found(layout: Metadata, size: int) -> None:
    assert memory_size(digest(layout, size)) == size


def test_an_unusual_size_is_not_guessed() -> None:
    assert memory_size(digest(LAYOUTS[0], 2 * GIB + 5 * MIB)) is None
    assert memory_size(bytes(48)) is None
