"""Typed access to the members of a JSON object. Every surprise is a `MalformedError` naming the member."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from tdxstack.errors import MalformedError


class Fields:
    """The members of one JSON object; `what` names the object in errors."""

    __slots__ = ("_members", "_what")

    def __init__(self, members: object, what: str) -> None:
        if not isinstance(members, dict):
            raise MalformedError(f"{what} is not a JSON object", hint=_HINT)
        self._members: dict[str, Any] = members
        self._what = what

    def has(self, name: str) -> bool:
        """Whether the member is there."""
        return name in self._members

    def number(self, name: str, limit: int = 0xFFFF_FFFF) -> int:
        """A whole number from 0 to `limit`."""
        value = self._members.get(name)
        if type(value) is not int or not 0 <= value <= limit:
            raise self._wrong(name, f"a number from 0 to {limit}")
        return value

    def text(self, name: str) -> str:
        """A string."""
        value = self._members.get(name)
        if not isinstance(value, str):
            raise self._wrong(name, "a string")
        return value

    def octets(self, name: str, size: int) -> bytes:
        """Exactly `size` bytes in hex, without the white space that Python would pass over."""
        text = self.text(name)
        try:
            value = bytes.fromhex(text)
        except ValueError:
            value = b""
        if len(value) != size or len(text) != 2 * size:
            raise self._wrong(name, f"{size} bytes in hex")
        return value

    def time(self, name: str) -> datetime:
        """A time in UTC, as in 2025-06-19T10:16:03Z."""
        text = self.text(name)
        try:
            if (len(text), text[4:5], text[7:8], text[10:11], text[19:]) == (20, "-", "-", "T", "Z"):
                return datetime.fromisoformat(text)
        except ValueError:
            pass
        raise self._wrong(name, "a time like 2025-06-19T10:16:03Z")

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings; empty if the member is missing."""
        value = self._members.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(name, "a list of strings")
        return tuple(value)

    def child(self, name: str) -> Fields:
        """A JSON object."""
        return Fields(self._members.get(name), f"{self._what}.{name}")

    def children(self, name: str) -> list[Fields]:
        """A list of JSON objects."""
        return [Fields(item, f"{self._what}.{name}[{index}]") for index, item in enumerate(self._list(name))]

    def objects(self, name: str) -> list[dict[str, Any]]:
        """A list of JSON objects, as they are."""
        items = self._list(name)
        if not all(isinstance(item, dict) for item in items):
            raise self._wrong(name, "a list of JSON objects")
        return items

    def wrong(self, name: str, found: object, wanted: str) -> MalformedError:
        """The error that `name` is `found` and not `wanted`."""
        return MalformedError(f"{self._what}: {name} is {found!r:.80}, not {wanted}", hint=_HINT)

    def _list(self, name: str) -> list[Any]:
        value = self._members.get(name)
        if not isinstance(value, list):
            raise self._wrong(name, "a list")
        return value

    def _wrong(self, name: str, wanted: str) -> MalformedError:
        return self.wrong(name, self._members.get(name), wanted)


_HINT = "fetch the collateral again; tdxstack reads version 4 of the PCS API"
