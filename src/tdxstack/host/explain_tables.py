"""What codes and messages of the TDX stack mean: the tables of `explanations/`, read and checked.

Each table is TOML. A table of codes has `[family]` (id, title, layer, source) and `codes`, whose rows have a
code, a name and what is known of it; `like` names the row of another table that has the same meaning.
`messages.toml` has rows for lines of text. Every row has a source, its own or its family's.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from tdxstack.errors import MalformedError

LAYERS: Final = (
    "bios",
    "kernel",
    "module",
    "kvm",
    "qemu",
    "libvirt",
    "td",
    "dcap",
    "qgs",
    "verification",
)
"""From the hardware upwards: of two problems in one log, the lower is the likelier cause of the other."""

GAP: Final = "…"
"""Stands in a message's pattern for any text within the line."""

STATUS_FILE: Final = "tdx_status.toml"
MESSAGES_FILE: Final = "messages.toml"
KINDS: Final = ("problem", "note")


@dataclass(frozen=True, slots=True)
class Family:
    """Where a code comes from."""

    id: str
    title: str
    layer: str
    source: str


@dataclass(frozen=True, slots=True)
class Code:
    """One number and what it means in its family; texts may be empty."""

    family: Family
    number: int
    name: str
    meaning: str = ""
    cause: str = ""
    next: str = ""

    @property
    def id(self) -> str:
        """Unique among all codes."""
        return f"{self.family.id}.{self.name}"


@dataclass(frozen=True, slots=True)
class StatusClass:
    """Bits 47:40 of a TDX module status, with what holds for each status of the class."""

    number: int
    title: str
    meaning: str
    cause: str = ""
    next: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """A line that a program prints: it fits if the fragments of one pattern stand in it, in order.

    Fragments are UTF-8 with ASCII letters in lower case.
    """

    id: str
    layer: str
    kind: str
    patterns: tuple[tuple[bytes, ...], ...]
    example: str
    meaning: str
    cause: str
    next: str
    source: str


@dataclass(frozen=True, slots=True)
class Tables:
    """All tables. `codes` and `messages` keep the order of the files."""

    codes: tuple[Code, ...]
    classes: Mapping[int, StatusClass]
    operands: Mapping[int, str]
    leaves: Mapping[int, str]
    exit_reasons: Mapping[int, str]
    messages: tuple[Message, ...]

    def of_name(self, name: str) -> tuple[Code, ...]:
        """The codes of this name, written in any case."""
        return tuple(code for code in self.codes if code.name == name.upper())


def load() -> Tables:
    """Read the tables that come with tdxstack. Raises `MalformedError` naming the row that is wrong."""
    folder = files("tdxstack.host") / "explanations"
    documents = {
        entry.name: tomllib.loads(entry.read_text("utf-8"))
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".toml")
    }
    messages = documents.pop(MESSAGES_FILE)
    status = documents[STATUS_FILE]
    codes = [code for name, document in documents.items() for code in _codes(name, document)]
    return Tables(
        codes=tuple(_resolved(codes, documents)),
        classes={row["number"]: StatusClass(**row) for row in status["classes"]},
        operands=_numbered(status["operands"]),
        leaves=_numbered(status["leaves"]),
        exit_reasons=_numbered(status["exit_reasons"]),
        messages=tuple(_message(row) for row in messages["messages"]),
    )


def _codes(name: str, document: Mapping[str, Any]) -> Iterator[Code]:
    family = Family(**document["family"])
    if family.layer not in LAYERS:
        raise _wrong(name, f"layer {family.layer!r} is none of {', '.join(LAYERS)}")
    for row in document["codes"]:
        texts = {key: row.get(key, "") for key in ("meaning", "cause", "next")}
        yield Code(family, int(row["code"], 16), row["name"], **texts)


def _resolved(codes: list[Code], documents: Mapping[str, Mapping[str, Any]]) -> Iterator[Code]:
    """The codes, with the texts of the row that `like` names where a row has it."""
    likes = {
        row["name"]: int(row["like"], 16) for d in documents.values() for row in d["codes"] if "like" in row
    }
    by_number = {code.number: code for code in codes}
    for code in codes:
        if code.name not in likes:
            yield code
            continue
        like = by_number.get(likes[code.name])
        if like is None:
            raise _wrong(code.family.id, f"{code.name} is like 0x{likes[code.name]:x}, which no table has")
        yield Code(code.family, code.number, code.name, like.meaning, like.cause, like.next)


def _message(row: Mapping[str, Any]) -> Message:
    message = Message(
        id=row["id"],
        layer=row["layer"],
        kind=row.get("kind", KINDS[0]),
        patterns=tuple(_fragments(pattern) for pattern in row["says"]),
        example=row["example"],
        meaning=row["meaning"],
        cause=row.get("cause", ""),
        next=row.get("next", ""),
        source=row["source"],
    )
    if message.layer not in LAYERS or message.kind not in KINDS:
        raise _wrong(MESSAGES_FILE, f"{message.id} has layer {message.layer!r} and kind {message.kind!r}")
    return message


def _fragments(pattern: str) -> tuple[bytes, ...]:
    return tuple(fragment.strip().encode().lower() for fragment in pattern.split(GAP))


def _numbered(table: Mapping[str, str]) -> dict[int, str]:
    return {int(number): name for number, name in table.items()}


def _wrong(table: str, problem: str) -> MalformedError:
    return MalformedError(f"explanations, {table}: {problem}", hint="the installation of tdxstack is damaged")
