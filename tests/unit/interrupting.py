"""Ctrl-C at a line that is chosen by its number, so that a test hits the same place each time."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any


@dataclass
class Lines:
    """How many lines Python has run in a block of `interrupted_at`."""

    count: int = 0


@contextlib.contextmanager
def interrupted_at(line: int) -> Iterator[Lines]:
    """Interrupt a block at the `line`-th line that this thread runs in it, or never (0)."""
    lines = Lines()

    def trace(_frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            lines.count += 1
            if lines.count == line:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(before)
