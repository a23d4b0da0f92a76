"""A Linux kernel's command line, edited field by field.

Fields are separated by blanks; double quotes keep blanks in a value. A hyphen and an underscore in a name are
one (Linux Documentation/admin-guide/kernel-parameters.rst).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_FIELD = re.compile(r'(?:[^\s"]|"[^"]*"?)+')


def fields(text: str) -> list[tuple[str, str | None]]:
    """(name, value) of each field in order; None for a field without `=`. Quotes stay in the value."""
    found = []
    for field in _FIELD.findall(text):
        name, equals, value = field.partition("=")
        found.append((name, value if equals else None))
    return found


def edit(text: str, *, set_: Mapping[str, str], remove: Iterable[str]) -> str:
    """`text` without the fields of the names in `remove`, and with those of `set_`, each once.

    A field that is there keeps its place; new ones follow in the order given. An empty value makes a field
    without `=`. Text that is not edited is returned as it is.
    """
    gone = {_key(name) for name in remove}
    new = {_key(name): f"{name}={_quoted(value)}" if value else name for name, value in set_.items()}
    if not gone and not new:
        return text
    words: list[str] = []
    for name, value in fields(text):
        key = _key(name)
        if key in new:
            if word := new[key]:
                words.append(word)
            new[key] = ""
        elif key not in gone:
            words.append(name if value is None else f"{name}={value}")
    return " ".join([*words, *(word for word in new.values() if word)])


def _key(name: str) -> str:
    return name.replace("-", "_")


def _quoted(value: str) -> str:
    return f'"{value}"' if re.search(r"\s", value) and '"' not in value else value
