"""A bounded memory of what pure functions returned."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Memo(Generic[K, V]):
    """Up to `limit` values by key, none of them None; when it is full, all are forgotten.

    Threads may share one: at worst two of them make the same value.
    """

    __slots__ = ("_limit", "_values")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: dict[K, V] = {}

    def find(self, key: K) -> V | None:
        """The value of `key`, if it is remembered."""
        return self._values.get(key)

    def keep(self, key: K, value: V) -> None:
        """Remember a value."""
        if len(self._values) >= self._limit:
            self._values.clear()
        self._values[key] = value

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of `key`, from memory or else from `make`, which depends on nothing but `key`."""
        value = self.find(key)
        if value is None:
            value = make()
            self.keep(key, value)
        return value
