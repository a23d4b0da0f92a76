"""The acceptance suite, run in this process and told case by case."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from tdxstack.errors import CommandError, UsageError
from tdxstack.platform import PlatformChoice
from tdxstack.testing.plugin import KEPT, MARKERS
from tdxstack.testing.runner import Tdx
from tdxstack.verification.result import Status

ACCEPTANCE = Path(__file__).parent / "acceptance"
OUTPUT_TAIL = 4000
"""Characters of what a failed case has printed that are kept."""


@dataclass(frozen=True, slots=True)
class Case:
    """A case and, once it has run, how it ended."""

    id: str
    about: str
    markers: tuple[str, ...]
    status: Status = Status.UNKNOWN
    seconds: float = 0.0
    detail: str = ""
    """Why it failed or does not apply, in a line."""
    output: str = ""
    """Of a failed case: where, and the end of what it printed."""

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"status": self.status.value, "markers": list(self.markers)}


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """How all cases ended; without any, or with one that did not, it is not passed."""

    cases: tuple[Case, ...]
    kept: Tdx | None = None
    """The machines of failed cases, where they were to be kept."""

    @property
    def passed(self) -> bool:
        return bool(self.cases) and not {case.status for case in self.cases} & {Status.FAIL, Status.UNKNOWN}

    def count(self, status: Status) -> int:
        return sum(case.status is status for case in self.cases)


def list_cases(choice: PlatformChoice, selection: Sequence[str] = ()) -> list[Case]:
    """The cases that `run_cases` would run; what does not apply on the platform says so.

    Raises `UsageError` where a word of `selection` is part of no case's id.
    """
    observer = _Observer(selection)
    _pytest(observer, choice, "--collect-only")
    return observer.cases()


def run_cases(
    choice: PlatformChoice,
    selection: Sequence[str] = (),
    *,
    keep_failed: bool = False,
    junit: Path | None = None,
    on_start: Callable[[str], None] = lambda case: None,
    on_end: Callable[[Case], None] = lambda case: None,
) -> SuiteResult:
    """Run the cases whose id has a word of `selection` in it; without a selection, all.

    Raises `UsageError` where a word selects nothing, `KeyboardInterrupt` when interrupted: everything that
    was started is ended by then.
    """
    observer = _Observer(selection, on_start, on_end)
    options = ["--tdx-keep-failed"] if keep_failed else []
    _pytest(observer, choice, *options, *([f"--junit-xml={junit}"] if junit else []))
    return SuiteResult(tuple(observer.cases()), observer.kept)


def _pytest(observer: _Observer, choice: PlatformChoice, *options: str) -> None:
    """Run pytest with nothing of the working directory's and no plugin but ours."""
    words = [
        *(str(ACCEPTANCE), "-c", os.devnull, "--rootdir", str(ACCEPTANCE)),
        *("--disable-plugin-autoload", "-p", "no:terminal", "-p", "no:cacheprovider"),
        *("-p", "tdxstack.testing.plugin", "--strict-markers", f"--tdx-platform={choice.platform.value}"),
    ]
    code = pytest.main([*words, *options], plugins=[observer])
    if observer.unmatched:
        raise UsageError(
            f"no case has {observer.unmatched[0]!r} in its name", hint="tdx test --list shows all cases"
        )
    if code == pytest.ExitCode.INTERRUPTED and not observer.broken:
        raise KeyboardInterrupt
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise CommandError(f"the acceptance suite could not run: {observer.broken or code}")


class _Observer:
    """A plugin of pytest's that selects cases and remembers how they end."""

    def __init__(
        self,
        selection: Sequence[str],
        on_start: Callable[[str], None] = lambda case: None,
        on_end: Callable[[Case], None] = lambda case: None,
    ) -> None:
        self._selection = selection
        self._on_start = on_start
        self._on_end = on_end
        self._cases: dict[str, Case] = {}
        self.unmatched: list[str] = []
        self.broken = ""
        self.kept: Tdx | None = None

    def cases(self) -> list[Case]:
        return list(self._cases.values())

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        cases = [(item, _case(item)) for item in items]
        chosen = [
            (item, case)
            for item, case in cases
            if not self._selection or any(word in case.id for word in self._selection)
        ]
        self.unmatched = [
            word for word in self._selection if not any(word in case.id for _item, case in cases)
        ]
        self._cases = {item.nodeid: case for item, case in chosen if not self.unmatched}
        items[:] = [item for item in items if item.nodeid in self._cases]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.broken = report.longreprtext

    def pytest_internalerror(self, excrepr: Any) -> None:
        self.broken = str(excrepr)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._on_start(self._cases[nodeid].id)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        case = self._cases[report.nodeid]
        seconds = round(case.seconds + report.duration, 2)
        status, detail, output = case.status, case.detail, case.output
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            text = getattr(crash, "message", report.longreprtext)
            status, detail = Status.FAIL, _one_line(text)
            output = "\n".join([report.longreprtext, report.capstdout, report.capstderr])[-OUTPUT_TAIL:]
        elif report.skipped:
            assert isinstance(report.longrepr, tuple)
            status, detail = Status.NOT_APPLICABLE, report.longrepr[2].removeprefix("Skipped: ")
        elif report.when == "call":
            status = Status.OK
        self._cases[report.nodeid] = Case(case.id, case.about, case.markers, status, seconds, detail, output)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._on_end(self._cases[nodeid])

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        self.kept = config.stash.get(KEPT, None)


def _case(item: pytest.Item) -> Case:
    """What is known of a case before it runs: `test_power.py::test_shutdown[td]` is `power.shutdown[td]`."""
    function = getattr(item, "obj", None)
    about = (function.__doc__ or "").strip().partition("\n")[0]
    known = [marker.partition(":")[0] for marker in MARKERS]
    markers = tuple(name for name in known if item.get_closest_marker(name))
    skip = item.get_closest_marker("skip")
    subject = item.path.stem.removeprefix("test_")
    name = f"{subject}.{item.name.removeprefix('test_')}".replace("_", "-")
    if skip is None:
        return Case(name, about, markers)
    return Case(name, about, markers, Status.NOT_APPLICABLE, detail=str(skip.args[0]))


def _one_line(text: str) -> str:
    return text.strip().partition("\n")[0]
