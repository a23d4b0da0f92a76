"""An explanation of differences, and what a rule that looks for one is given."""

from __future__ import annotations

from dataclasses import dataclass

from tdxstack.measurement.comparison.alignment import Kind, Pair
from tdxstack.measurement.comparison.side import Entry, Side


@dataclass(frozen=True, slots=True)
class Cause:
    """One explanation. `differences` are the numbers of those it explains, `registers` those it changes."""

    id: str
    sentence: str
    advice: str
    differences: tuple[int, ...]
    registers: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """id, sentence, advice, differences, registers."""
        return {
            "id": self.id,
            "sentence": self.sentence,
            "advice": self.advice,
            "differences": list(self.differences),
            "registers": list(self.registers),
        }


@dataclass(frozen=True, slots=True)
class Case:
    """What a rule looks at: both sides, and the differences that are left, by number."""

    a: Side
    b: Side
    left: dict[int, Pair]

    def about(self, kind: str, prefix: str | tuple[str, ...], *kinds: Kind) -> dict[int, Pair]:
        """The differences in events of type `kind` whose meaning begins with (a) `prefix`."""
        return {
            number: pair
            for number, pair in self.left.items()
            if any(
                entry and entry.type == kind and entry.meaning.startswith(prefix)
                for entry in (pair.a, pair.b)
            )
            and (not kinds or pair.kind in kinds)
        }


def cause_of(id_: str, sentence: str, advice: str, pairs: dict[int, Pair]) -> Cause:
    """The cause of `pairs`, with their registers."""
    registers = {entry.register for pair in pairs.values() for entry in (pair.a, pair.b) if entry is not None}
    return Cause(id_, sentence, advice, tuple(pairs), tuple(sorted(registers)))


def either(pair: Pair) -> Entry:
    """The event of a pair, the first log's if it is in both."""
    entry = pair.b if pair.a is None else pair.a
    assert entry is not None
    return entry


def where(pair: Pair) -> str:
    """Which of the logs has the event."""
    return {
        Kind.ADDED: "only in the second",
        Kind.REMOVED: "only in the first",
        Kind.MOVED: "at another place",
    }.get(pair.kind or Kind.CHANGED, "different in each")


def value_of(entry: Entry) -> str:
    """What follows the subject in an event's meaning."""
    return entry.meaning.removeprefix(entry.subject[1]).lstrip(": ") or entry.meaning
