"""GRUB's command `test`, which is also called `[`.

Source: GNU GRUB 2.12, grub-core/commands/test.c.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol

MAX_NESTED = 50
"""Parentheses in one condition."""

_COMPARISONS: dict[str, Callable[[str, str], bool]] = {
    "=": lambda one, other: one == other,
    "==": lambda one, other: one == other,
    "!=": lambda one, other: one != other,
    "<": lambda one, other: one < other,
    "<=": lambda one, other: one <= other,
    ">": lambda one, other: one > other,
    ">=": lambda one, other: one >= other,
    "-eq": lambda one, other: _number(one) == _number(other),
    "-ne": lambda one, other: _number(one) != _number(other),
    "-lt": lambda one, other: _number(one) < _number(other),
    "-le": lambda one, other: _number(one) <= _number(other),
    "-gt": lambda one, other: _number(one) > _number(other),
    "-ge": lambda one, other: _number(one) >= _number(other),
}
_LEADING_NUMBER = re.compile(r"\s*(-?\d{1,18})")


class Files(Protocol):
    """What there is at a path of GRUB's."""

    def size(self, path: str) -> int | None:
        """Bytes of a file; None where there is no file."""

    def is_directory(self, path: str) -> bool:
        """Whether it is a directory."""


def holds(words: Sequence[str], files: Files) -> bool:
    """Whether the condition holds."""
    return _evaluate(list(reversed(words)), files)


def unknown_operator(words: Sequence[str]) -> str:
    """The first operator that is not followed, such as those for a file's age; empty for none."""
    if words.count("(") > MAX_NESTED:
        return "("
    return next((word for word in words if re.fullmatch(r"-(?:nt|ot)-?\d*|-pgt|-plt", word)), "")


def _evaluate(left: list[str], files: Files) -> bool:
    """Evaluate what is left (the next word last), up to the parenthesis that ends it."""
    both, either, invert = True, False, False
    while left:
        value: bool | None = None
        if len(left) > 2 and left[-2] in _COMPARISONS:
            one, operator, other = left.pop(), left.pop(), left.pop()
            value = _COMPARISONS[operator](one, other)
        elif len(left) > 1 and left[-1] in ("-d", "-e", "-f", "-s", "-n", "-z"):
            value = _about(left.pop(), left.pop(), files)
        else:
            match word := left.pop():
                case ")":
                    return either or both
                case "(":
                    value = _evaluate(left, files)
                case "!":
                    invert = not invert
                case "-o":
                    either, both = either or both, True
                case "-a":
                    pass
                case _:
                    value = bool(word)
        if value is not None:
            both, invert = both and value != invert, False
    return either or both


def _about(operator: str, operand: str, files: Files) -> bool:
    match operator:
        case "-n":
            return bool(operand)
        case "-z":
            return not operand
        case "-d":
            return files.is_directory(operand)
        case "-e":
            return files.is_directory(operand) or files.size(operand) is not None
        case "-s":
            return bool(files.size(operand))
    return files.size(operand) is not None


def _number(text: str) -> int:
    found = _LEADING_NUMBER.match(text)
    return int(found[1]) if found else 0
