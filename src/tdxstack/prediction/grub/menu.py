"""Entries of GRUB's menu, and the one that a menu starts by itself.

Source: GNU GRUB 2.12, grub-core/normal/menu.c and commands/menuentry.c.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tdxstack.prediction.grub.script import Script

_WITH_VALUE = frozenset(("--class", "-c", "--users", "-u", "--hotkey", "-k", "--source", "-s", "--id"))
_NUMBERS = (
    (re.compile(r"\s*0x([0-9a-fA-F]{1,8})"), 16),
    (re.compile(r"\s*(0[0-7]{1,10})"), 8),
    (re.compile(r"\s*([0-9]{1,9})"), 10),
)
"""How a number begins, and its base; as in C, but that 08 is decimal and 0X1 is 0."""
_PATH_END = re.compile(r"(?<!>)(?:>>)*>(?!>)")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. `arguments`: what its commands see as $1 and so on; `restricted`: for superusers only."""

    title: str
    id: str
    arguments: tuple[str, ...]
    script: Script
    submenu: bool
    restricted: bool


def entry_of(words: Sequence[str], script: Script, *, submenu: bool) -> Entry:
    """The entry of a command `menuentry` or `submenu`, given the words behind it."""
    arguments: list[str] = []
    options: dict[str, str] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        if word in _WITH_VALUE and left:
            options[word] = left.pop(0)
        elif word.startswith("-") and len(word) > 1:
            key, _, value = word.partition("=")
            options[key] = value
        else:
            arguments.append(word)
    title = arguments[0] if arguments else ""
    restricted = "--unrestricted" not in options or "--users" in options
    return Entry(title, options.get("--id", title), tuple(arguments), script, submenu, restricted)


def number_of(entries: Sequence[Entry], wanted: str) -> int:
    """The number of the entry that a variable `default` means, counted from 0; -1 for none."""
    for form, base in _NUMBERS:
        if number := form.match(wanted):
            return int(number[1], base)
    first = _first(wanted)
    return next((at for at, entry in enumerate(entries) if first in (entry.title, entry.id)), -1)


def rest_of(wanted: str) -> str:
    """What `default` says of the menu below the entry that it names first."""
    end = _PATH_END.search(wanted)
    return wanted[end.end() :] if end else ""


def _first(wanted: str) -> str:
    end = _PATH_END.search(wanted)
    return (wanted[: end.end() - 1] if end else wanted).replace(">>", ">")
