"""The language of GRUB's configuration, taken apart; nothing is run here.

Source: GNU GRUB 2.12, grub-core/script/yylex.l and parser.y.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tdxstack.errors import MalformedError

MAX_NESTED = 50
RESERVED = frozenset(
    {
        *("case", "do", "done", "elif", "else", "esac", "fi", "for", "function", "if", "in", "select"),
        *("then", "until", "while"),
    }
)
NEWLINE, SEMICOLON, OPEN, CLOSE = "\n", ";", "{", "}"
TEXT, QUOTED, VARIABLE, QUOTED_VARIABLE = "text", "quoted", "variable", "quoted variable"

_SKIPPED = re.compile(r"(?:[ \t]|\\\n|#[^\n]*)+")
_OPERATOR = re.compile(r"[|&<>]|;;")
_PLAIN = re.compile(r"""[^{}|&$;<> \t\n'"\\]+""")
_NAME = re.compile(r"\$(?:(\w+|[?#*@])|\{(\w+|[?#*@])\})", re.ASCII)
_IN_QUOTES = re.compile(r'[^"$\\]+')

HINT = "check it with grub-script-check"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a word: text, or the name of a variable, in quotes or not."""

    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class Word:
    """One word, and the line that it is on."""

    parts: tuple[Part, ...]
    line: int

    @property
    def plain(self) -> str:
        """The word where it is written without quotes and variables, else empty."""
        return self.parts[0].value if len(self.parts) == 1 and self.parts[0].kind == TEXT else ""


@dataclass(frozen=True, slots=True)
class Command:
    """A command with its arguments, and the block behind them if there is one."""

    words: tuple[Word, ...]
    block: Script | None


@dataclass(frozen=True, slots=True)
class If:
    """Conditions with what is run where the first of them holds, and what is run where none does."""

    branches: tuple[tuple[Script, Script], ...]
    otherwise: Script


@dataclass(frozen=True, slots=True)
class For:
    """A loop over words."""

    variable: str
    words: tuple[Word, ...]
    body: Script


@dataclass(frozen=True, slots=True)
class While:
    """A loop as long as the condition holds, or (`until`) as long as it does not."""

    condition: Script
    body: Script
    until: bool


@dataclass(frozen=True, slots=True)
class Function:
    """The definition of a function."""

    name: str
    body: Script


Statement = Command | If | For | While | Function
Script = tuple[Statement, ...]


def parse(text: str, name: str) -> Script:
    """Take a script apart; `name` is for errors. Raises `MalformedError` naming the line."""
    return _Parser(list(_tokens(text, name)), name).script()


Token = Word | str


def _tokens(text: str, name: str) -> Iterator[tuple[Token, int]]:
    """Words and separators, each with its line, counted from 1."""
    at, line = 0, 1
    while at < len(text):
        skipped = _SKIPPED.match(text, at)
        if skipped:
            at, line = skipped.end(), line + skipped[0].count("\n")
        elif text[at] in (NEWLINE, SEMICOLON, OPEN, CLOSE) and not text.startswith(";;", at):
            yield text[at], line
            line += text[at] == NEWLINE
            at += 1
        elif _OPERATOR.match(text, at):
            raise _bad(name, line, text[at : at + 2].strip())
        else:
            word, end = _word(text, at, name, line)
            yield word, line
            line += text.count("\n", at, end)
            at = end


def _word(text: str, at: int, name: str, line: int) -> tuple[Word, int]:
    parts: list[Part] = []
    while at < len(text):
        if plain := _PLAIN.match(text, at):
            parts.append(Part(TEXT, plain[0]))
            at = plain.end()
        elif text[at] == "\\":
            if text[at + 1 : at + 2] != "\n":
                parts.append(Part(QUOTED, text[at + 1 : at + 2]))
            at += 2
        elif text[at] == "'":
            end = text.find("'", at + 1)
            if end < 0:
                raise _bad(name, line, text[at : at + 40])
            parts.append(Part(QUOTED, text[at + 1 : end]))
            at = end + 1
        elif text[at] == '"' or text.startswith('$"', at):
            found, at = _in_quotes(text, at + 1 + (text[at] == "$"), name, line)
            parts += found
        elif text[at] == "$":
            variable = _NAME.match(text, at)
            if variable is None:
                raise _bad(name, line, text[at : at + 40])
            parts.append(Part(VARIABLE, variable[1] or variable[2]))
            at = variable.end()
        else:
            break
    return Word(tuple(parts), line), at


def _in_quotes(text: str, at: int, name: str, line: int) -> tuple[list[Part], int]:
    """The parts of a word in double quotes, from behind the first one."""
    start, parts = at, [Part(QUOTED, "")]
    while at < len(text):
        if text[at] == '"':
            return parts, at + 1
        if variable := _NAME.match(text, at):
            parts.append(Part(QUOTED_VARIABLE, variable[1] or variable[2]))
            at = variable.end()
        elif plain := _IN_QUOTES.match(text, at):
            parts.append(Part(QUOTED, plain[0]))
            at = plain.end()
        elif text[at] == "$":
            break
        else:
            escaped = text[at + 1 : at + 2]
            kept = {"$": "$", "\\": "\\", '"': '"', "\n": ""}.get(escaped, "\\" + escaped)
            parts.append(Part(QUOTED, kept))
            at += 2
    raise _bad(name, line, text[start - 1 : start + 40])


class _Parser:
    def __init__(self, tokens: list[tuple[Token, int]], name: str) -> None:
        self._tokens = tokens
        self._name = name
        self._at = 0
        self._nested = 0

    def script(self) -> Script:
        """Everything there is."""
        found = self._statements(())
        if self._at < len(self._tokens):
            raise self._unexpected()
        return found

    def _peek(self) -> Token | None:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else None

    def _reserved(self) -> str:
        """The reserved word that comes next, or the brace; else empty."""
        token = self._peek()
        text = token.plain if isinstance(token, Word) else token or ""
        return text if text in RESERVED or text in (OPEN, CLOSE) else ""

    def _take(self, wanted: str) -> None:
        self._skip()
        if self._reserved() != wanted:
            raise self._unexpected()
        self._at += 1

    def _skip(self) -> None:
        while self._peek() in (NEWLINE, SEMICOLON):
            self._at += 1

    def _statements(self, ends: tuple[str, ...]) -> Script:
        self._nested += 1
        if self._nested > MAX_NESTED:
            raise self._unexpected()
        found: list[Statement] = []
        self._skip()
        while self._peek() is not None and self._reserved() not in ends:
            found.append(self._statement())
            self._skip()
        self._nested -= 1
        return tuple(found)

    def _statement(self) -> Statement:
        match self._reserved():
            case "":
                return self._command()
            case "if":
                return self._if()
            case "for":
                return self._for()
            case "while" | "until" as word:
                self._at += 1
                condition = self._statements(("do",))
                self._take("do")
                return While(condition, self._body("done"), word == "until")
            case "function":
                self._at += 1
                name = self._plain_word()
                self._take(OPEN)
                return Function(name, self._body(CLOSE))
        raise self._unexpected()

    def _command(self) -> Command:
        words = self._words()
        block = None
        if self._peek() == OPEN:
            self._at += 1
            block = self._body(CLOSE)
        return Command(words, block)

    def _if(self) -> If:
        branches: list[tuple[Script, Script]] = []
        otherwise: Script = ()
        word = "if"
        while word in ("if", "elif"):
            self._at += 1
            condition = self._statements(("then",))
            self._take("then")
            branches.append((condition, self._statements(("elif", "else", "fi"))))
            word = self._reserved()
        if word == "else":
            self._at += 1
            otherwise = self._statements(("fi",))
        self._take("fi")
        return If(tuple(branches), otherwise)

    def _for(self) -> For:
        self._at += 1
        variable = self._plain_word()
        self._take("in")
        words = self._words()
        self._take("do")
        return For(variable, words, self._body("done"))

    def _body(self, end: str) -> Script:
        found = self._statements((end,))
        self._take(end)
        return found

    def _words(self) -> tuple[Word, ...]:
        found = []
        while isinstance(token := self._peek(), Word):
            found.append(token)
            self._at += 1
        return tuple(found)

    def _plain_word(self) -> str:
        token = self._peek()
        if not isinstance(token, Word) or not token.plain:
            raise self._unexpected()
        self._at += 1
        return token.plain

    def _unexpected(self) -> MalformedError:
        if self._at >= len(self._tokens):
            return MalformedError(f"GRUB's configuration: {self._name} ends too early", hint=HINT)
        token, line = self._tokens[self._at]
        text = token if isinstance(token, str) else "".join(part.value for part in token.parts)
        return _bad(self._name, line, text)


def _bad(name: str, line: int, text: str) -> MalformedError:
    return MalformedError(
        f"GRUB's configuration: {name}, line {line}: {text[:80]!r} is not understood", hint=HINT
    )
