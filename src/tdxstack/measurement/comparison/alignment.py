"""Which event of one log is which of the other: insertions, removals, changes and moves."""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from tdxstack.measurement.comparison.side import Entry


class Kind(enum.StrEnum):
    """How two logs disagree about an event."""

    CHANGED = "changed"
    ADDED = "added"
    """Only the second has it."""
    REMOVED = "removed"
    """Only the first has it."""
    MOVED = "moved"
    """Both have it, at another place or in another register."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An event of the first log and its counterpart in the second; one of them may be missing."""

    a: Entry | None
    b: Entry | None
    moved: bool = False

    @property
    def kind(self) -> Kind | None:
        """How they disagree; None where they do not, or where a digest is not known."""
        if self.a is None:
            return Kind.ADDED
        if self.b is None:
            return Kind.REMOVED
        if self.moved:
            return Kind.MOVED
        if self.a.digest is None or self.b.digest is None:
            return None
        return Kind.CHANGED if (self.a.type, self.a.digest) != (self.b.type, self.b.digest) else None


_Key = Callable[[Entry], Hashable]
_KEYS: tuple[_Key, ...] = (
    lambda entry: (entry.type, entry.digest),
    lambda entry: entry.subject,
    lambda entry: entry.type,
)
"""By what entries are paired, the closest likeness first."""


def align(a: Sequence[Entry], b: Sequence[Entry]) -> tuple[Pair, ...]:
    """Pair the events of one register of two logs, in an order that both logs agree with."""
    return tuple(_align(a, b, _KEYS))


def _align(a: Sequence[Entry], b: Sequence[Entry], keys: Sequence[_Key]) -> Iterator[Pair]:
    if not a or not b or not keys:
        yield from (Pair(entry, None) for entry in a)
        yield from (Pair(None, entry) for entry in b)
        return
    key = keys[0]
    matcher = SequenceMatcher(None, [key(entry) for entry in a], [key(entry) for entry in b], autojunk=False)
    for what, a_from, a_to, b_from, b_to in matcher.get_opcodes():
        if what == "equal":
            yield from (Pair(*pair) for pair in zip(a[a_from:a_to], b[b_from:b_to], strict=True))
        else:
            yield from _align(a[a_from:a_to], b[b_from:b_to], keys[1:])


def find_moves(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """`pairs` of all registers, with each removal and addition of one and the same event made one move."""
    removed: dict[tuple[str, bytes], list[int]] = {}
    for number, pair in enumerate(pairs):
        if pair.kind is Kind.REMOVED and pair.a is not None and pair.a.digest is not None:
            removed.setdefault((pair.a.type, pair.a.digest), []).append(number)
    result: list[Pair | None] = list(pairs)
    for number, pair in enumerate(pairs):
        if pair.kind is Kind.ADDED and pair.b is not None and pair.b.digest is not None:
            places = removed.get((pair.b.type, pair.b.digest))
            if places:
                place = places.pop(0)
                result[number] = Pair(pairs[place].a, pair.b, moved=True)
                result[place] = None
    return tuple(pair for pair in result if pair is not None)
