"""Every fuzz target on the kept corpus and on a fixed number of changes to it.

Long runs: see docs/how-to/fuzz.md.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.corpus import corpus
from tests.fuzz.targets import TARGETS

RUNS = 1000
"""Changed inputs of each target."""

INTERESTING = (bytes(4), b"\xff" * 4, *(bytes((one,)) for one in b"\0\xff\x80\x7f[{ \n"))


def test_every_target_has_a_corpus() -> None:
    assert corpus().keys() == TARGETS.keys()
    assert all(corpus().values())


@pytest.mark.parametrize("name", TARGETS)
def test_target(name: str) -> None:
    chance = random.Random(name)
    inputs = corpus()[name]
    for data in (*inputs, b""):
        TARGETS[name](data)
    for _ in range(RUNS):
        TARGETS[name](changed(chance.choice(inputs), chance))


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="there is no atheris for this Python")
def test_long_fuzzing_starts(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "ccel_table", str(tmp_path / "corpus"), "-runs=300", "-seed=1"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Done 300 runs" in done.stderr


def changed(data: bytes, chance: random.Random) -> bytes:
    """`data` with a few bytes changed, taken out, put in or cut off."""
    work = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(work))
        match chance.randrange(5):
            case 0 if at < len(work):
                work[at] ^= 1 << chance.randrange(8)
            case 1:
                work[at:at] = chance.choice(INTERESTING)
            case 2:
                piece = chance.choice(INTERESTING)
                work[at : at + len(piece)] = piece
            case 3:
                del work[at : at + chance.randint(1, 16)]
            case _:
                if chance.randrange(4) == 0:
                    del work[at:]
    return bytes(work)
