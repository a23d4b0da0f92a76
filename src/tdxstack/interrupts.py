"""Ctrl-C while things are made and ended: it cancels what waits, and cuts into nothing else.

Python raises `KeyboardInterrupt` in whatever line runs just then: while an event loop is set up, while a
process is being ended, or in a library that takes it for an error of its own. What was half done stays so.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
R = TypeVar("R")


def nothing() -> None:
    """What there is to cancel where nothing waits."""


@dataclass(slots=True)
class Interrupts:
    """Those that came in a block of `hold`."""

    came: bool = False
    cancel: Callable[[], object] = nothing
    """Is called for each."""

    def take(self, _number: int, _frame: object) -> None:
        """Handle a signal."""
        self.came = True
        self.cancel()


@contextlib.contextmanager
def hold() -> Iterator[Interrupts]:
    """Take note of interrupts for a block, and raise `KeyboardInterrupt` when it is left.

    An interrupt is a signal that raises `KeyboardInterrupt` otherwise. Nothing changes outside of the main
    thread, where none comes, and for signals that are ignored or that a program handles itself.
    """
    held = Interrupts()
    main = threading.current_thread() is threading.main_thread()
    raising = [number for number in SIGNALS if signal.getsignal(number) is signal.default_int_handler]
    for number in raising if main else ():
        signal.signal(number, held.take)
    try:
        yield held
    finally:
        for number in raising if main else ():
            signal.signal(number, signal.default_int_handler)
        if held.came:
            raise KeyboardInterrupt from None


def wait(work: Callable[[], Coroutine[Any, Any, R]]) -> R:
    """What `work` gives, in an event loop of its own. Each interrupt cancels it; once it has ended,
    `KeyboardInterrupt` is raised, also where it came to its end all the same.
    """
    with hold() as interrupts, asyncio.Runner() as runner:
        return runner.run(_cancelled_by(interrupts, work))


async def _cancelled_by(interrupts: Interrupts, work: Callable[[], Coroutine[Any, Any, R]]) -> R:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    interrupts.cancel = lambda: loop.call_soon_threadsafe(task.cancel)
    try:
        if interrupts.came:
            raise asyncio.CancelledError
        return await work()
    finally:
        interrupts.cancel = nothing


async def to_the_end(work: Coroutine[Any, Any, R]) -> R:
    """What `work` gives; a cancellation that comes meanwhile is raised once it has ended.

    For what ends and removes things, and takes no more than seconds.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        # The failure of the work, if any, is told by nobody then.
        task.cancelled() or task.exception()
        raise cancelled
    return task.result()
