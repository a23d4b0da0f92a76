"""Ctrl-C cancels what waits, and cuts into nothing else."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable

import pytest

from tdxstack import interrupts
from tests.unit.interrupting import interrupted_at


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def test_an_interrupt_is_held_to_the_end_of_a_block() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.hold() as held:
        interrupt()
        done.append(held.came)
    assert done == [True]
    with pytest.raises(KeyboardInterrupt):
        interrupt()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_that_interrupt_are_held_too(number: signal.Signals) -> None:
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), interrupts.hold() as held:
            signal.raise_signal(number)
            assert held.came
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_a_block_that_is_not_interrupted_ends_as_it_does() -> None:
    with pytest.raises(ZeroDivisionError), interrupts.hold():
        _ = 1 / 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_cancels_what_waits() -> None:
    seen = []

    async def work() -> None:
        try:
            asyncio.get_running_loop().call_later(0.01, interrupt)
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            seen.append("cleaned up")

    with pytest.raises(KeyboardInterrupt):
        interrupts.wait(work)
    assert seen == ["cleaned up"]


def test_an_interrupt_that_the_work_survives_is_not_lost() -> None:
    async def work() -> None:
        interrupt()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return

    with pytest.raises(KeyboardInterrupt):
        interrupts.wait(work)


@pytest.mark.parametrize("after", range(1, 400, 3))
def test_at_whatever_line_it_comes_the_work_is_not_begun_or_is_ended(after: int) -> None:
    told = []

    async def work() -> None:
        told.append("begun")
        try:
            await asyncio.sleep(0.001)
        finally:
            await asyncio.sleep(0)
            told.append("ended")

    try:
        with interrupted_at(after) as lines:
            interrupts.wait(work)
    except KeyboardInterrupt:
        assert lines.count == after
    else:
        assert lines.count < after, "it was swallowed"
    assert told in ([], ["begun", "ended"])


def test_what_is_seen_through_is_ended_before_a_cancellation_is_told() -> None:
    told = []

    async def ending() -> None:
        await asyncio.sleep(0.05)
        told.append("ended")

    async def cancelled_twice() -> None:
        task = asyncio.create_task(interrupts.to_the_end(ending()))
        for _ in range(2):
            await asyncio.sleep(0.01)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled_twice())
    assert told == ["ended"]


def test_what_is_seen_through_gives_its_result_or_its_error() -> None:
    async def work(result: Callable[[], int]) -> int:
        return result()

    assert asyncio.run(interrupts.to_the_end(work(lambda: 7))) == 7
    with pytest.raises(ZeroDivisionError):
        asyncio.run(interrupts.to_the_end(work(lambda: 1 // 0)))


def test_a_program_that_handles_interrupts_itself_goes_on_to() -> None:
    caught = []
    before = signal.signal(signal.SIGINT, lambda *_: caught.append("mine"))

    async def work() -> str:
        interrupt()
        await asyncio.sleep(0)
        return "done"

    try:
        assert interrupts.wait(work) == "done"
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught == ["mine"]


def test_other_threads_wait_too() -> None:
    async def work() -> int:
        return 7

    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(interrupts.wait(work)))
    thread.start()
    thread.join()
    assert done == [7]
