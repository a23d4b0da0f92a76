"""The comparison of two event logs against reading them: 100 events each."""

from __future__ import annotations

from typing import Any

import pytest

from tdxstack.abi.event_log import ALG_SHA384, EventLog, SpecId
from tdxstack.measurement.comparison.compare import compare
from tdxstack.measurement.comparison.reading import read_side
from tests.unit.measurement.comparison import logs
from tests.unit.measurement.comparison.logs import GIB, PLAIN

SPEC = SpecId(0, bytes(20), 0, 0, 2, 0, 2, ((ALG_SHA384, 48),), b"")
COMMANDS = tuple(logs.boot_loader(b"grub_cmd: %d" % number) for number in range(100 - len(PLAIN)))
FIRST = EventLog(SPEC, (*PLAIN, *COMMANDS)).to_bytes()
SECOND = EventLog(SPEC, (logs.hob(4 * GIB), *PLAIN[1:], *COMMANDS[::-1])).to_bytes()
GROUP = "comparison of two logs of 100 events"


@pytest.mark.benchmark(group=GROUP)
def test_compare(benchmark: Any) -> None:
    a, b = read_side("a", FIRST), read_side("b", SECOND)
    assert not benchmark(compare, a, b).equal


@pytest.mark.benchmark(group=GROUP)
def test_limit_reading_both(benchmark: Any) -> None:
    benchmark(lambda: (read_side("a", FIRST), read_side("b", SECOND)))
