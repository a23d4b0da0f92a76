"""Progress on stderr: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from tdxstack.terminal import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_INTERVAL = 15.0
"""Seconds between two lines that begin with the same word, where there is no terminal."""


class ProgressDisplay:
    """Receives reports (text, fraction) and lines of a guest's console."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._said = ""
        self._said_at = 0.0

    def report(self, text: str, fraction: float | None = None) -> None:
        """Show what is being done, and how far it is."""
        if self._progress is None:
            self._say(text, fraction)
            return
        if self._task is None:
            self._task = self._progress.add_task(text, total=None)
        self._progress.update(
            self._task, description=text, total=None if fraction is None else 1.0, completed=fraction or 0.0
        )

    def console_line(self, line: str) -> None:
        """Show one line that a guest has written on its console."""
        clean = printable(line)
        if clean:
            self._print(f"  {clean}", style="dim")

    def note(self, text: str) -> None:
        """Say something that stays on the screen."""
        self._print(text)

    def _say(self, text: str, fraction: float | None) -> None:
        step = text.split()[0]
        now = time.monotonic()
        if step == self._said and now - self._said_at < PLAIN_INTERVAL:
            return
        self._said, self._said_at = step, now
        done = "" if fraction is None else f" ({fraction:.0%})"
        self._print(f"{text}{done}")

    def _print(self, text: str, style: str | None = None) -> None:
        if self._progress is None:
            click.echo(text, err=True)
        else:
            self._progress.console.print(text, style=style, markup=False, highlight=False)


@contextlib.contextmanager
def progress_display() -> Iterator[ProgressDisplay]:
    """A display on stderr for as long as the block lasts."""
    if not sys.stderr.isatty():
        yield ProgressDisplay(None)
        return
    # Here, since most commands are quick, or not on a terminal.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield ProgressDisplay(progress)
