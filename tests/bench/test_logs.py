"""Logs parsed and replayed, against the physical limit: the hashes that a replay cannot do without."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import pytest

from tdxstack.abi.event_log import EventLog
from tdxstack.abi.ima_log import parse_ima_log
from tdxstack.measurement.ima import replay_ima
from tdxstack.measurement.replay import replay
from tests.unit.measurement.test_logs import event, header

AREA = 256 << 10
"""Bytes of the log area, padded with 0xFF as edk2 does."""

EVENTS = 43
"""With the header, as many as a boot through shim and GRUB leaves: 44."""

EVENT_DATA = 350
IMA_BLOCK = 1000


def ccel(events: int) -> bytes:
    """A log whose area is at least `AREA`."""
    log = header((12, 48)) + b"".join(event(1 + at % 3, 13, bytes(EVENT_DATA)) for at in range(events))
    return log.ljust(AREA, b"\xff")


def ima(blocks: int) -> bytes:
    """A thousand entries, again and again."""

    def field(data: bytes) -> bytes:
        return struct.pack("<I", len(data)) + data

    def entry(number: int) -> bytes:
        file = hashlib.sha256(b"%d" % number).digest()
        data = field(b"sha256:\0" + file) + field(b"/usr/lib/x86_64-linux-gnu/lib%d.so\0" % number)
        return struct.pack("<I20s", 10, hashlib.sha1(data).digest()) + field(b"ima-ng") + field(data)

    return b"".join(map(entry, range(IMA_BLOCK))) * blocks


def parse_and_replay(data: bytes) -> None:
    replay(EventLog.parse(data).events)


@pytest.mark.benchmark(group="CCEL of 44 events: at most 150 microseconds")
def test_ccel(benchmark: Any) -> None:
    benchmark(parse_and_replay, ccel(EVENTS))


@pytest.mark.benchmark(group="CCEL of 44 events: at most 150 microseconds")
def test_limit_hashes_of_a_ccel(benchmark: Any) -> None:
    benchmark(extend_with_zeros, EVENTS)


@pytest.mark.benchmark(group="CCEL of 440 events: at most ten times as long")
def test_ccel_of_ten_times_the_events(benchmark: Any) -> None:
    benchmark(parse_and_replay, ccel(10 * EVENTS))


@pytest.mark.benchmark(group="CCEL of 440 events: at most ten times as long")
def test_limit_hashes_of_ten_times_the_events(benchmark: Any) -> None:
    benchmark(extend_with_zeros, 10 * EVENTS)


def extend_with_zeros(count: int) -> None:
    register = digest = bytes(48)
    for _ in range(count):
        register = hashlib.sha384(register + digest).digest()


@pytest.mark.benchmark(group="IMA log of 1,000,000 entries: at most 5 seconds")
def test_ima(benchmark: Any, pytestconfig: pytest.Config) -> None:
    """Each entry is checked against its digest, and extended into the SHA-256 bank."""
    blocks = 1 if pytestconfig.getoption("benchmark_disable") else 1000
    data = ima(blocks)
    done = benchmark.pedantic(lambda: replay_ima(parse_ima_log(data), "sha256"), rounds=1)
    assert done.entries == blocks * IMA_BLOCK
    assert done.mismatches == ()


@pytest.mark.benchmark(group="IMA log of 1,000,000 entries: at most 5 seconds")
def test_limit_hashes_of_an_ima_log(benchmark: Any, pytestconfig: pytest.Config) -> None:
    """Three hashes an entry: its own, that of the bank, and the extension."""
    count = 1000 if pytestconfig.getoption("benchmark_disable") else 1_000_000
    benchmark.pedantic(hash_thrice, args=(count, bytes(90)), rounds=1)


def hash_thrice(count: int, data: bytes) -> None:
    register = bytes(32)
    for _ in range(count):
        hashlib.sha1(data).digest()
        register = hashlib.sha256(register + hashlib.sha256(data).digest()).digest()
