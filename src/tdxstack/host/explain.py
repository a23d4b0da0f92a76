"""Explain a code, a message or a whole log: what it means, why it happens, what to do next."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from tdxstack.host.explain_codes import CodeFinding, Numbers, in_log
from tdxstack.host.explain_tables import LAYERS, Message, Tables
from tdxstack.terminal import printable

MAX_TEXT: Final = 16 << 20
"""Bytes of a log that are looked at."""
LINE_SHOWN: Final = 300
CODES_SHOWN: Final = 8
"""Different codes that are listed with one message."""
MAX_NUMBERS: Final = 200_000
"""Numbers of a log that are looked at."""
CODE_ALONE: Final = "code."
"""Begins the id of a finding that is a code without a known message."""
AROUND: Final = 400
"""Bytes of a line before and after a number that say what it is."""

_NUMBER = re.compile(
    rb"(?<![0-9a-z])0x(?P<hex>[0-9a-f]{4,16})(?![0-9a-f])"
    rb"|(?:code|return|returned|ret|result|status|error)[ :=]{1,3}(?P<decimal>[0-9]{5,20})(?![0-9a-z.])"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something recognised in a text: a message with the codes in its lines, or a code alone.

    `line` counts from 1; `count` says in how many lines it was seen; `note` marks what is no problem.
    """

    id: str
    layer: str
    note: bool
    meaning: str
    cause: str
    next: str
    source: str
    line: int
    text: str
    count: int = 1
    codes: tuple[CodeFinding, ...] = ()


def explain_text(text: str, tables: Tables) -> list[Finding]:
    """What is recognised in a text, each thing once, the likeliest first cause first and notes last.

    Looks at the first `MAX_TEXT` bytes, in time linear in them.
    """
    data = text.encode("utf-8", "replace")[:MAX_TEXT]
    lower = data.lower()
    found: dict[str, Finding] = {}
    claimed: dict[int, str] = {}
    for message in tables.messages:
        starts = {start for pattern in message.patterns for start in _lines_with(lower, pattern)}
        starts -= claimed.keys()
        if starts:
            claimed.update(dict.fromkeys(starts, message.id))
            found[message.id] = _of_message(message, data, min(starts), len(starts))
    alone: dict[str, Finding] = {}
    for start, code in _codes(lower, Numbers(tables)):
        if start in claimed:
            owner = found[claimed[start]]
            if code not in owner.codes:
                found[owner.id] = replace(owner, codes=(*owner.codes, code)[:CODES_SHOWN])
            continue
        id = _code_id(code)
        known = alone.get(id)
        alone[id] = replace(known, count=known.count + 1) if known else _of_code(id, code, data, start)
    told = {_code_id(code) for finding in found.values() for code in finding.codes}
    both = [*found.values(), *(finding for id, finding in alone.items() if id not in told)]
    return sorted(both, key=lambda finding: (finding.note, LAYERS.index(finding.layer), finding.line))


def _lines_with(data: bytes, pattern: tuple[bytes, ...]) -> Iterator[int]:
    """Where the lines begin in which the fragments of `pattern` stand in order."""
    first, *others = pattern
    end = -1
    while (at := data.find(first, end + 1)) >= 0:
        start = data.rfind(b"\n", end if end >= 0 else 0, at) + 1 or end + 1
        end = data.find(b"\n", at)
        end = len(data) if end < 0 else end
        at += len(first)
        for fragment in others:
            at = data.find(fragment, at, end)
            if at < 0:
                break
            at += len(fragment)
        else:
            yield start


def _codes(data: bytes, numbers: Numbers) -> Iterator[tuple[int, CodeFinding]]:
    """The codes in a log (in lower case), each with where its line begins; likely mistakes are left out."""
    start, end = 0, -1
    for match in islice(_NUMBER.finditer(data), MAX_NUMBERS):
        number = int(match["hex"], 16) if match["hex"] else int(match["decimal"])
        at = match.start()
        if at > end:
            start = data.rfind(b"\n", max(end, 0), at) + 1 or end + 1
            end = data.find(b"\n", at)
            end = len(data) if end < 0 else end
        if numbers.may_be_code(number):
            around = data[max(start, at - AROUND) : min(end, match.end() + AROUND)].decode("utf-8", "replace")
            for code in in_log(number, around, numbers):
                yield start, code


def _code_id(code: CodeFinding) -> str:
    return f"{CODE_ALONE}{code.family}.{code.name}"


def _of_message(message: Message, data: bytes, start: int, count: int) -> Finding:
    line, text = _line_at(data, start)
    return Finding(
        id=message.id,
        layer=message.layer,
        note=message.kind == "note",
        meaning=message.meaning,
        cause=message.cause,
        next=message.next,
        source=message.source,
        line=line,
        text=text,
        count=count,
    )


def _of_code(id: str, code: CodeFinding, data: bytes, start: int) -> Finding:
    line, text = _line_at(data, start)
    return Finding(
        id=id,
        layer=code.layer,
        note=False,
        meaning=code.meaning,
        cause=code.cause,
        next=code.next,
        source=code.source,
        line=line,
        text=text,
        codes=(code,),
    )


def _line_at(data: bytes, start: int) -> tuple[int, str]:
    """Number and shown text of the line that begins at `start`."""
    end = data.find(b"\n", start, start + 4 * LINE_SHOWN)
    line = data[start : end if end >= 0 else start + 4 * LINE_SHOWN]
    return data.count(b"\n", 0, start) + 1, printable(line.decode("utf-8", "replace"))[:LINE_SHOWN]
