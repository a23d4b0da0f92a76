"""The security version that Intel asks of TDX modules, by date."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from tdxstack.host.kernel_log import ModuleVersion
from tdxstack.host.module import Release, Releases, version_key

MODULES_LINK: Final = "https://github.com/intel/confidential-computing.tdx.tdx-module.binaries"


@dataclass(frozen=True, slots=True)
class Bar:
    """From `since` on Intel's standard TCB info calls modules of the line `major` below `svn` out of date."""

    major: int
    """1 for modules 1.5, which TCB info calls TDX_01, 2 for modules 2.0, TDX_03."""
    since: datetime
    svn: int
    source: str


BARS: Final = (
    Bar(1, datetime(2024, 11, 13, tzinfo=UTC), 6, "Intel TCB info, evaluation data number 18, TDX_01"),
    Bar(2, datetime(2024, 11, 13, tzinfo=UTC), 3, "Intel TCB info, evaluation data number 18, TDX_03"),
    Bar(1, datetime(2026, 8, 24, tzinfo=UTC), 11, "Intel TCB info, evaluation data number 20, TDX_01"),
)
"""By date. Those of evaluation 18 are its tcbDate; evaluation 20 is quoted in near/mpc pull request 4228."""


def bar_at(major: int, now: datetime) -> Bar | None:
    """What Intel asks of modules of the line `major` at `now`."""
    return next((bar for bar in reversed(BARS) if bar.major == major and bar.since <= now), None)


def least_svn(version: ModuleVersion, releases: Releases) -> int | None:
    """The least security version that a module can have: that of the newest published one that is not newer.

    None for one that is older than all published ones.
    """
    older = [one.svn[0] for one in _line(version.major, releases) if not _newer(one, version)]
    return max(older, default=None)


def oldest_above(bar: Bar, releases: Releases) -> str:
    """The oldest published module at or above the bar."""
    return min((one for one in _line(bar.major, releases) if one.svn[0] >= bar.svn), key=_key).version


def _line(major: int, releases: Releases) -> list[Release]:
    return [one for one in releases.releases if _key(one)[0] == major]


def _key(release: Release) -> tuple[int, ...]:
    return tuple(version_key(release.version))


def _newer(release: Release, version: ModuleVersion) -> bool:
    """Whether a published module is newer, by its version, or by its date where only that is known."""
    if version.update:
        return _key(release) > (version.major, version.minor, version.update)
    return int(f"{release.built:%Y%m%d}") > version.build_date
