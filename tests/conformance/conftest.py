"""Skips what needs the public vectors where they are absent, and says at the end how many tests that were."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.conformance import vectors

MARK = "vectors"


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Skip the marked tests if there is nothing for them to read."""
    if vectors.present():
        return
    for item in items:
        if item.get_closest_marker(MARK):
            item.add_marker(
                pytest.mark.skip(reason="no public vectors (TDXSTACK_VECTORS names their folder)")
            )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the count of the tests on public vectors that ran, and of those that were skipped."""
    counts = {
        outcome: sum(
            1
            for report in terminalreporter.getreports(outcome)
            if MARK in report.keywords and getattr(report, "when", "call") in ("call", "setup")
        )
        for outcome in ("passed", "failed", "skipped")
    }
    if any(counts.values()):
        ran = counts["passed"] + counts["failed"]
        terminalreporter.write_line(f"public vectors: {ran} tests ran, {counts['skipped']} skipped")
