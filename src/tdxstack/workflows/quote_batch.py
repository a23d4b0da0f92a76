"""Many quotes verified with all cores: a line for each, in order, with bounded memory."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tdxstack.abi.quote import Quote
from tdxstack.collateral.bundle import Collateral
from tdxstack.collateral.platform_id import PlatformId, subjects_of
from tdxstack.errors import MalformedError, TdxError, UnavailableError
from tdxstack.verification.certificates import TrustAnchor
from tdxstack.verification.policy import AnyPolicy
from tdxstack.verification.quote import QuoteResult, Verifier
from tdxstack.verification.quoted_platform import platform_of_quote

CHUNK: Final = 64
"""Quotes that a worker gets at a time."""

ReadQuote = Callable[[str], bytes]
"""Gives the bytes of the quote in a file, or raises `TdxError` or `OSError`."""


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms every quote is verified. `collateral` may be for several platforms."""

    collateral: tuple[Collateral, ...]
    time: datetime
    anchors: tuple[TrustAnchor, ...]
    policy: AnyPolicy


@dataclass(frozen=True, slots=True)
class Line:
    """What became of one file. If it could not be verified at all, `verdict` is None and `error` says why."""

    name: str
    verdict: str | None = None
    tcb_status: str | None = None
    advisory_ids: tuple[str, ...] = ()
    failing_checks: tuple[str, ...] = ()
    emulated: bool | None = None
    error: str | None = None

    @classmethod
    def of(cls, name: str, result: QuoteResult) -> Line:
        """The line of a quote that was verified."""
        return cls(
            name,
            result.verdict,
            result.tcb.status.value if result.tcb else None,
            result.tcb.advisories if result.tcb else (),
            tuple(check.id for check in result.failures()),
            result.emulated,
        )

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {
            "name": self.name,
            "verdict": self.verdict,
            "tcb_status": self.tcb_status,
            "advisory_ids": list(self.advisory_ids),
            "failing_checks": list(self.failing_checks),
            "emulated": self.emulated,
            "error": self.error,
        }


def files_below(directory: Path) -> list[str]:
    """The names of everything but directories below `directory`, relative to it, in order."""
    names = [
        os.path.relpath(Path(parent) / name, directory)
        for parent, _, files in os.walk(directory)
        for name in files
    ]
    return sorted(names)


def platforms_of(directory: Path, names: Iterable[str], read: ReadQuote) -> set[PlatformId]:
    """The platforms that the quotes are from. What is wrong with a file is told when it is verified."""
    found = set()
    for name in names:
        try:
            found.add(platform_of_quote(Quote.parse(_read(directory, name, read))))
        except (TdxError, OSError):
            continue
    return found


class Workers:
    """Processes that verify the quotes in `directory`. They live as long as the `with` block.

    They are forked: start them before there are threads.
    """

    def __init__(self, directory: Path, terms: Terms, read: ReadQuote, jobs: int) -> None:
        self._directory, self._terms, self._read, self._jobs = directory, terms, read, jobs
        self._processes: list[BaseProcess] = []
        self._connections: list[Connection[Any, Any]] = []

    def __enter__(self) -> Self:
        try:
            for _ in range(self._jobs):
                self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def verify(self, names: Iterable[str]) -> Iterator[Line]:
        """A line for each of `names`, in their order. Raises `UnavailableError` if a worker dies."""
        rest = iter(names)
        busy: deque[Connection[Any, Any]] = deque()
        for connection in self._connections:
            if chunk := list(itertools.islice(rest, CHUNK)):
                connection.send(chunk)
                busy.append(connection)
        # Each worker has one chunk at a time, so that neither side ever waits for the other to read.
        while busy:
            connection = busy.popleft()
            try:
                lines = connection.recv()
            except (EOFError, ConnectionError):
                raise UnavailableError(
                    "a process that verifies quotes has died", hint="is there enough memory? try fewer --jobs"
                ) from None
            if chunk := list(itertools.islice(rest, CHUNK)):
                connection.send(chunk)
                busy.append(connection)
            yield from lines

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        self._connections.append(ours)
        process = context.Process(
            target=_work,
            args=(theirs, tuple(self._connections), self._directory, self._terms, self._read),
            daemon=True,
        )
        process.start()
        self._processes.append(process)
        theirs.close()

    def _stop(self) -> None:
        # First of all, so that a worker ends that was too young for the signal: it still had the parent's
        # handler for it, and would wait for work for ever.
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()


def _work(
    connection: Connection[Any, Any],
    inherited: Sequence[Connection[Any, Any]],
    directory: Path,
    terms: Terms,
    read: ReadQuote,
) -> None:
    """Verify chunks of names until there are no more, or the parent is gone."""
    # Ctrl-C reaches the parent too, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    # The parent's ends: while this process holds them, it and its siblings would not notice that it is gone.
    for end in inherited:
        end.close()
    judge = Judge.of(terms)
    # The parent is gone when it reads and writes no more.
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            names = connection.recv()
            connection.send([judge.line(directory, name, read) for name in names])


@dataclass(frozen=True, slots=True)
class Judge:
    """Verifies one quote after another with one `Verifier`."""

    terms: Terms
    verifier: Verifier
    by_platform: Mapping[PlatformId, Collateral]

    @classmethod
    def of(cls, terms: Terms) -> Judge:
        """Be ready for the platforms of the collateral; of several for one platform the first counts."""
        by_platform: dict[PlatformId, Collateral] = {}
        if len(terms.collateral) > 1:
            for subject, collateral in zip(subjects_of(terms.collateral), terms.collateral, strict=True):
                by_platform.setdefault(subject.platform, collateral)
        return cls(terms, Verifier(anchors=terms.anchors, policy=terms.policy), by_platform)

    def line(self, directory: Path, name: str, read: ReadQuote) -> Line:
        """What becomes of one file; what is wrong with it is told and never raised."""
        try:
            quote = Quote.parse(_read(directory, name, read))
            result = self.verifier.verify(quote, self._collateral_for(quote), time=self.terms.time)
        except TdxError as error:
            return Line(name, error=error.message)
        except OSError as error:
            return Line(name, error=error.strerror or str(error))
        return Line.of(name, result)

    def _collateral_for(self, quote: Quote) -> Collateral:
        if not self.by_platform:
            return self.terms.collateral[0]
        platform = platform_of_quote(quote)
        collateral = self.by_platform.get(platform)
        if collateral is None:
            raise MalformedError(f"there is no collateral for {platform}")
        return collateral


def _read(directory: Path, name: str, read: ReadQuote) -> bytes:
    path = directory / name
    if not path.is_file():
        # A pipe or a device could keep the reader waiting for ever.
        raise MalformedError(f"{name} is not a regular file")
    return read(str(path))
