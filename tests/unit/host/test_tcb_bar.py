from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tdxstack.host.kernel_log import ModuleVersion
from tdxstack.host.module import Releases
from tdxstack.host.tcb_bar import BARS, bar_at, least_svn, oldest_above

RELEASES = Releases.load()


@pytest.mark.parametrize(
    ("version", "svn"),
    [
        (ModuleVersion(1, 5, 1), 4),
        (ModuleVersion(1, 5, 6), 6),
        (ModuleVersion(1, 5, 7), 6),
        (ModuleVersion(1, 5, 16), 11),
        (ModuleVersion(1, 5, 24), 11),
        (ModuleVersion(1, 5, build_date=20240725), 7),
        (ModuleVersion(1, 5, build_date=20250101), 8),
        (ModuleVersion(1, 5, build_date=20230206), None),
        (ModuleVersion(2, 0, 8), 5),
        (ModuleVersion(3, 0, 1), None),
    ],
)
def test_a_module_has_at_least_the_svn_of_what_it_follows(version: ModuleVersion, svn: int | None) -> None:
    assert least_svn(version, RELEASES) == svn


@pytest.mark.parametrize(
    ("major", "day", "svn"),
    [
        (1, datetime(2024, 11, 12, tzinfo=UTC), None),
        (1, datetime(2026, 8, 23, tzinfo=UTC), 6),
        (1, datetime(2026, 8, 24, tzinfo=UTC), 11),
        (2, datetime(2026, 11, 1, tzinfo=UTC), 3),
        (3, datetime(2026, 11, 1, tzinfo=UTC), None),
    ],
)
def test_the_bar_rises_on_its_day(major: int, day: datetime, svn: int | None) -> None:
    bar = bar_at(major, day)
    assert (bar.svn if bar else None) == svn


def test_every_bar_can_be_met_by_a_published_module() -> None:
    assert [oldest_above(bar, RELEASES) for bar in BARS] == ["1.5.06", "2.0.02", "1.5.16"]
    assert list(BARS) == sorted(BARS, key=lambda bar: bar.since)
