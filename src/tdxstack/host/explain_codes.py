"""Numbers that the TDX stack leaves behind, taken apart.

Fields of a TDX module status: Intel TDX Module ABI Reference Specification, completion status codes, and
union api_error_code_u of intel/tdx-module; bit 63 error, 62 not recoverable, 61 fatal, 60 host priority,
47:40 class, 39:32 name, 31:0 details.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import islice
from typing import Final

from tdxstack.host.explain_tables import Code, Tables

STATUS_FAMILY: Final = "tdx-status"
ERROR, NON_RECOVERABLE, FATAL, HOST_PRIORITY = (1 << bit for bit in (63, 62, 61, 60))
SOFTWARE_CLASS: Final = 0xFF

_MODIFIERS: Final = FATAL | HOST_PRIORITY
_RESERVED: Final = 0xFFF << 48
_DETAILS: Final = 0xFFFFFFFF
_ALL_ONES: Final = (1 << 64) - 1

_NUMBER = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})")
_BARE_HEX = re.compile(r"(?=[0-9]{0,15}[a-fA-F])(?:[0-9a-fA-F]{8,16}|[0-9a-fA-F]{4})")
_MENTIONED = re.compile(
    r"(?<![\w.])(?:0[xX](?P<hex>(?!0+\b)[0-9a-fA-F]{1,16})|(?P<name>[A-Za-z][A-Za-z0-9]{1,9}_\w{3,70}))\b"
)
_NAME = re.compile(r"[A-Za-z0-9]{1,10}_\w{3,70}")
_LEAF = re.compile(r"seamcall \(0x([0-9a-f]{1,16})\)")

MENTIONED: Final = 8
"""Numbers and names of one line that are explained."""

_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "get-quote": ("quote",),
    "tdvmcall": ("tdvmcall", "vmcall", "hypercall"),
    "seamldr": ("seamldr", "seamcall (0x8"),
    "linux-seamcall": (),
}
"""In a log, a number that is in one of these families is only taken for it beside such a word."""
_DCAP = range(0xA001, 0x13000)
_DCAP_WORDS: Final = (
    "sgx",
    "quote",
    "qgs",
    "dcap",
    "pccs",
    "qcnl",
    "qpl",
    "tee_att",
    "tdx",
    "attest",
    "pce",
)
_TDX_WORDS: Final = ("tdx", "seam", "tdcall", "td exit", "hw_error")


@dataclass(frozen=True, slots=True)
class CodeFinding:
    """A number, what it means in one family, and its fields in words."""

    number: int
    family: str
    title: str
    layer: str
    name: str
    meaning: str
    cause: str
    next: str
    source: str
    fields: Mapping[str, str] = field(default_factory=dict)


class Numbers:
    """The tables of codes, by number."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.exact: dict[int, list[Code]] = defaultdict(list)
        self.status: dict[int, Code] = {}
        for code in tables.codes:
            if code.family.id == STATUS_FAMILY and code.number & _DETAILS == 0:
                self.status[code.number & ~_MODIFIERS] = code
                self.family = code.family
            else:
                self.exact[code.number].append(code)

    def may_be_code(self, number: int) -> bool:
        """Whether a number is in a table or has the form of a status that reports an error."""
        return number in self.exact or bool(
            number < 1 << 64 and number & (ERROR | NON_RECOVERABLE) and not number & _RESERVED
        )


def number_in(text: str) -> int | None:
    """The 64-bit number that a whole text is: hexadecimal, decimal or negative decimal; else None."""
    words = text.strip()
    if _NUMBER.fullmatch(words):
        value = int(words, 16 if "x" in words.lower() else 10)
        return value % (1 << 64) if -(1 << 63) <= value < 1 << 64 else None
    return int(words, 16) if _BARE_HEX.fullmatch(words) else None


def explain_name(name: str, numbers: Numbers) -> list[CodeFinding]:
    """The codes with this name, such as TDX_SYS_NOT_READY."""
    return [
        one
        for code in numbers.tables.of_name(name.strip())
        for one in explain_number(code.number, numbers)
        if one.name == code.name
    ]


def explain_number(number: int, numbers: Numbers) -> list[CodeFinding]:
    """All that a 64-bit number can mean, one finding for each family that has it.

    A number of 32 bits that means nothing itself may be the upper half of a status, which is how it is often
    told.
    """
    status = _status(number, numbers)
    exact = [_plain(code) for code in numbers.exact.get(number, ())]
    found = [status, *exact] if status else exact
    if not found and number <= _DETAILS and number << 32 & (ERROR | NON_RECOVERABLE):
        whole = _status(number << 32, numbers)
        return [whole] if whole and whole.name != UNKNOWN_STATUS else []
    return found


def explain_mentioned(line: str, numbers: Numbers) -> list[CodeFinding]:
    """The codes and their names in a line that somebody asks about, without doubt whether they are such."""
    found: list[CodeFinding] = []
    for match in islice(_MENTIONED.finditer(line), MENTIONED):
        hexadecimal, name = match["hex"], match["name"]
        ones = explain_name(name, numbers) if name else explain_number(int(hexadecimal, 16), numbers)
        found += [one for one in ones if one not in found]
    return found


def similar_names(word: str, tables: Tables) -> list[str]:
    """The names of codes that a word nearly is."""
    if not _NAME.fullmatch(word.strip()):
        return []
    return get_close_matches(
        word.strip().upper(), {code.name: None for code in tables.codes}, n=3, cutoff=0.8
    )


def in_log(number: int, around: str, numbers: Numbers) -> list[CodeFinding]:
    """What a number in a log is, given the text around it (in lower case).

    Numbers that are likelier an address, a size or a process id are left out.
    """
    leaf = _LEAF.search(around)
    called = int(leaf[1], 16) if leaf else None
    if number == called:
        return []
    found = [one for one in explain_number(number, numbers) if _likely(one, around)]
    name = numbers.tables.leaves.get(called & 0xFFFF) if called is not None and not called >> 63 else None
    return [replace(one, fields={"function": name, **one.fields}) for one in found] if name else found


def _likely(finding: CodeFinding, around: str) -> bool:
    if finding.number in _DCAP:
        return any(word in around for word in _DCAP_WORDS)
    if finding.family in _WORDS:
        words = _WORDS[finding.family]
        return not words or any(word in around for word in words)
    if not finding.number & (ERROR | NON_RECOVERABLE):
        return False
    ambiguous = finding.name == UNKNOWN_STATUS or finding.number == _ALL_ONES
    return not ambiguous or any(word in around for word in _TDX_WORDS)


UNKNOWN_STATUS: Final = "unknown status"


def _plain(code: Code) -> CodeFinding:
    return CodeFinding(
        number=code.number,
        family=code.family.id,
        title=code.family.title,
        layer=code.family.layer,
        name=code.name,
        meaning=code.meaning,
        cause=code.cause,
        next=code.next,
        source=code.family.source,
    )


def _status(number: int, numbers: Numbers) -> CodeFinding | None:
    """A number as a TDX module status, with modifiers and details of its own; None without that form."""
    known = numbers.status.get(number & ~(_MODIFIERS | _DETAILS))
    name, group = number >> 32 & 0xFF, number >> 40 & 0xFF
    by_class = numbers.tables.classes.get(group)
    if known is not None and not known.number and number:
        return None
    if known is None and (
        by_class is None
        or group == SOFTWARE_CLASS
        or number & _RESERVED
        or not number & ERROR
        or not (group or name)
    ):
        return None
    assert by_class is not None
    fields = _status_fields(number, numbers.tables)
    if known is None:
        fields["name"] = f"0x{name:02x} of this class is not in tdxstack's table"
    return CodeFinding(
        number=number,
        family=numbers.family.id,
        title=numbers.family.title,
        layer=numbers.family.layer,
        name=known.name if known else UNKNOWN_STATUS,
        meaning=(known.meaning if known else "") or by_class.meaning,
        cause=(known.cause if known else "") or by_class.cause,
        next=(known.next if known else "") or by_class.next,
        source=numbers.family.source,
        fields=fields,
    )


def _status_fields(number: int, tables: Tables) -> dict[str, str]:
    group, details = number >> 40 & 0xFF, number & _DETAILS
    fields = {
        "class": tables.classes[group].title,
        "error": _yes(number & ERROR),
        "recoverable": _yes(not number & NON_RECOVERABLE),
        "fatal": _yes(number & FATAL),
        "host_priority": _yes(number & HOST_PRIORITY),
    }
    if details and group == 0:
        fields["exit_reason"] = f"{tables.exit_reasons.get(details & 0xFFFF, 'unknown')} ({details & 0xFFFF})"
    elif details:
        fields["operand"] = f"{tables.operands.get(details, 'unknown')} (0x{details:x})"
    return fields


def _yes(bit: int | bool) -> str:
    return "yes" if bit else "no"
