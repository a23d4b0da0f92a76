"""Words of GRUB's configuration, with variables put in.

Source: GNU GRUB 2.12, grub-core/script/execute.c.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tdxstack.prediction.grub.files import bad
from tdxstack.prediction.grub.script import QUOTED_VARIABLE, TEXT, VARIABLE, Word

MAX_TEXT, MAX_WORDS = 1 << 14, 1 << 14
"""Letters that the words of a command may come to, and their number."""


class Variables:
    """Variables by name, those that a new context inherits, and the arguments of the function that runs."""

    def __init__(self, values: dict[str, str], exported: set[str]) -> None:
        self._values = values
        self._exported = exported
        self.arguments: Sequence[str] = ()
        self.status = 0

    def inherited(self) -> Variables:
        """The variables of a new context."""
        kept = {name: value for name, value in self._values.items() if name in self._exported}
        made = Variables(kept, set(self._exported))
        made.arguments, made.status = self.arguments, self.status
        return made

    def get(self, name: str) -> str:
        """The value; empty where there is none."""
        return self._values.get(name, "")

    def set(self, name: str, value: str, *, export: bool = False) -> None:
        """Set it; an empty value counts as none."""
        self._values[name] = value
        if export:
            self._exported.add(name)

    def export(self, name: str) -> None:
        """Let new contexts inherit it."""
        self._exported.add(name)

    def expand(self, words: Sequence[Word]) -> list[str]:
        """What words become: a variable outside quotes is taken apart at blanks, an empty one is nothing.

        Raises `MalformedError` for a pattern, and for more text than GRUB is given.
        """
        found: list[str] = []
        left = MAX_TEXT
        for word in words:
            texts = self._texts(word)
            found += texts
            left -= sum(map(len, texts))
            if left < 0 or len(found) > MAX_WORDS:
                raise bad(f"line {word.line}: a command of more than {MAX_TEXT} letters is not followed")
        return found

    def _texts(self, word: Word) -> list[str]:
        texts: list[str | None] = [None]
        for part in word.parts:
            if part.kind == TEXT and len(word.plain) != 1 and re.search(r"[*?]", part.value):
                raise bad(f"line {word.line}: the pattern {part.value[:80]!r} is not followed")
            for number, piece in enumerate(self._pieces(part.kind, part.value)):
                if number:
                    texts.append(None)
                texts[-1] = (texts[-1] or "") + piece
                if len(texts[-1] or "") > MAX_TEXT or len(texts) > MAX_TEXT:
                    raise bad(f"line {word.line}: a word of more than {MAX_TEXT} letters is not followed")
        return [text for text in texts if text is not None]

    def _pieces(self, kind: str, value: str) -> list[str]:
        if kind == QUOTED_VARIABLE:
            return self._special(value)
        if kind == VARIABLE:
            return " ".join(self._special(value)).split()
        return [value]

    def _special(self, name: str) -> list[str]:
        if name == "@":
            return list(self.arguments)
        if name.isdigit():
            place = int(name[:9])
            return list(self.arguments[place - 1 : place]) if place else []
        known = {"?": str(self.status), "#": str(len(self.arguments)), "*": " ".join(self.arguments)}
        value = known.get(name, self.get(name))
        return [value] if value else []
