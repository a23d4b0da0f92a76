"""One hierarchy of errors. Each says what is wrong, what to do, and how a command should exit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import ClassVar


class TdxError(Exception):
    """Base of every error that tdxstack raises on purpose.

    `message` names the offending value; `hint` says what to do about it.
    `exit_code` is what a command ends with (see docs/reference/exit-codes.md).
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class RejectedError(TdxError):
    """The thing examined is not good: a rejected quote, a mismatch, a refused report."""

    exit_code = 1


class UsageError(TdxError):
    """The caller asked for something that makes no sense."""

    exit_code = 2


class MalformedError(UsageError):
    """Bytes or text that are not what they claim to be. The only error a parser raises."""


class UnavailableError(TdxError):
    """This machine lacks something: a program, a device, a network, space on disk."""

    exit_code = 3


class CommandError(UnavailableError):
    """A program that tdxstack ran has failed or overran its time."""


@contextlib.contextmanager
def about(name: str) -> Iterator[None]:
    """Let a `MalformedError` from here say which file it is about, where it does not already."""
    try:
        yield
    except MalformedError as error:
        if name in error.message:
            raise
        raise MalformedError(f"{name}: {error.message}", hint=error.hint) from None
