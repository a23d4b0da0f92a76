"""Calls with two forms and one implementation: `vm.stop()` waits, `await vm.stop.aio()` lets others work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from tdxstack import interrupts
from tdxstack.errors import UsageError

Owner = TypeVar("Owner")
P = ParamSpec("P")
R = TypeVar("R")


def wait(work: Callable[[], Coroutine[Any, Any, R]], name: str) -> R:
    """What `work` gives; an interrupt cancels it (`interrupts.wait`).

    Raises `UsageError` in an event loop, which would stand still meanwhile.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return interrupts.wait(work)
    raise UsageError(f"{name} would halt the event loop", hint=f"await its twin: {name}.aio")


class Call(Generic[P, R]):
    """A method of one object in both forms."""

    def __init__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> None:
        self.aio = function
        """The awaited form; a wait that is cancelled leaves nothing running that it has started."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return wait(lambda: self.aio(*args, **kwargs), getattr(self.aio, "__name__", "it"))


class twin(Generic[Owner, P, R]):
    """Makes a coroutine method one that is called and waited for, with its awaited form as `.aio`."""

    def __init__(self, function: Callable[Concatenate[Owner, P], Coroutine[Any, Any, R]]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: type[Owner]) -> twin[Owner, P, R]: ...

    @overload
    def __get__(self, instance: Owner, owner: type[Owner]) -> Call[P, R]: ...

    def __get__(self, instance: Owner | None, owner: type[Owner]) -> twin[Owner, P, R] | Call[P, R]:
        if instance is None:
            return self
        return Call(self._function.__get__(instance, owner))
