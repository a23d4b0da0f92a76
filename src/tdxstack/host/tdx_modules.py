"""The TDX modules that Intel has published, and the security version that Intel asks for.

Versions, security versions (ISVSVN) and dates of build: the SIGSTRUCT files of intel tdx-module.binaries at
2026-02-10 (ISVSVN is the byte behind SEAMHASH, the next one is the major identity: 1 is TDX_01, 3 is TDX_03).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from tdxstack.host.kernel_log import ModuleVersion

MODULES_LINK: Final = "https://github.com/intel/confidential-computing.tdx.tdx-module.binaries"


@dataclass(frozen=True, slots=True)
class PublishedModule:
    """One TDX module: `svn` is its ISVSVN, `build_date` YYYYMMDD as old kernels print it."""

    version: str
    svn: int
    build_date: int


PUBLISHED: Final = (
    PublishedModule("1.5.01", 4, 20231008),
    PublishedModule("1.5.05", 5, 20240129),
    PublishedModule("1.5.06", 6, 20240407),
    PublishedModule("1.5.08", 7, 20240725),
    PublishedModule("1.5.09", 8, 20240912),
    PublishedModule("1.5.13", 10, 20250207),
    PublishedModule("1.5.16", 11, 20250219),
    PublishedModule("2.0.02", 3, 20240814),
    PublishedModule("2.0.04", 4, 20250109),
    PublishedModule("2.0.05", 4, 20250123),
    PublishedModule("2.0.08", 5, 20250325),
)


@dataclass(frozen=True, slots=True)
class Bar:
    """From `since` on Intel's standard TCB info calls modules of `major` below `svn` out of date."""

    major: int
    since: datetime
    svn: int
    source: str


BARS: Final = (
    Bar(
        1,
        datetime(2024, 11, 13, tzinfo=UTC),
        6,
        "Intel TCB info, TCB evaluation data number 18, identity TDX_01",
    ),
    Bar(
        2,
        datetime(2024, 11, 13, tzinfo=UTC),
        3,
        "Intel TCB info, TCB evaluation data number 18, identity TDX_03",
    ),
    Bar(
        1,
        datetime(2026, 8, 24, tzinfo=UTC),
        11,
        "Intel TCB info, TCB evaluation data number 20, identity TDX_01",
    ),
)
"""By date. Those of evaluation 18 are its tcbDate; evaluation 20 is quoted in near/mpc pull request 4228."""


def bar_at(major: int, now: datetime) -> Bar | None:
    """What Intel asks for of modules of `major` at `now`."""
    return next((bar for bar in reversed(BARS) if bar.major == major and bar.since <= now), None)


def published(version: ModuleVersion) -> PublishedModule | None:
    """The published module of this version, or of this date of build."""
    for module in PUBLISHED:
        if version.update and module.version == str(version):
            return module
        if not version.update and version.build_date and module.build_date == version.build_date:
            return module
    return None


def security_version(version: ModuleVersion) -> int | None:
    """The least ISVSVN that a module of this version has; None where it is older than all published ones."""
    if known := published(version):
        return known.svn
    line = [module for module in PUBLISHED if module.version.startswith(f"{version.major}.{version.minor}.")]
    older = [
        module.svn
        for module in line
        if (int(module.version.rsplit(".", 1)[1]) < version.update)
        or (0 < module.build_date < version.build_date)
    ]
    return max(older, default=None)


def lowest_version(bar: Bar) -> str:
    """The oldest published module that is at or above the bar."""
    line = "1.5." if bar.major == 1 else "2.0."
    return next(
        module.version for module in PUBLISHED if module.version.startswith(line) and module.svn >= bar.svn
    )
