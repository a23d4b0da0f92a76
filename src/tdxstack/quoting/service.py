"""One quote generation service per user: started by the first TD that needs it, gone with the last.

A user of the service is a locked file in `users/`. The lock belongs to an open file that the TD's QEMU
inherits, so it ends with QEMU however that ends, and nobody has to count.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from tdxstack import run
from tdxstack.errors import CommandError, MalformedError, RejectedError, UnavailableError
from tdxstack.files import is_locked, lock, make_private
from tdxstack.quoting import client

READY: Final = b"ready\n"

START_SECONDS: Final = 30.0
POLL_SECONDS: Final = 2.0
GRACE_SECONDS: Final = 10.0

_PROBE_SECONDS = 5.0
_LOG_TAIL = 2000


@dataclass(frozen=True, slots=True)
class Service:
    """Where a service keeps its files.

    `socket` is where TDs' QEMUs find it (`quote-generation-socket`). `users` is a directory with a file for
    each TD that needs the service, locked while it does.
    """

    socket: Path
    users: Path

    @classmethod
    def of_user(cls, runtime_dir: Path) -> Service:
        """The one service of the user whose runtime directory this is."""
        return cls(runtime_dir / "qgs.sock", runtime_dir / "qgs-users")

    @property
    def instance_lock(self) -> Path:
        """Held by the service as long as it lives."""
        return self.socket.with_suffix(".lock")

    @property
    def start_lock(self) -> Path:
        """Held while the service is being started, and while it decides to go."""
        return self.socket.with_suffix(".start.lock")

    def in_use(self) -> bool:
        """Whether some TD needs the service."""
        return self.users.is_dir() and any(is_locked(path) for path in self.users.iterdir())

    @contextlib.contextmanager
    def use(self, name: str) -> Iterator[int]:
        """Need the service for the block, under a name of one's own; yields the descriptor that says so.

        A program that inherits the descriptor needs the service until it ends. Take this before
        `ensure_running`, or the service may go in between.
        """
        make_private(self.users.parent)
        make_private(self.users)
        with lock(self.users / name) as descriptor:
            yield descriptor

    async def unused(self, *, poll: float = POLL_SECONDS, grace: float = GRACE_SECONDS) -> None:
        """Return when no TD has needed the service for `grace` seconds; the socket is gone then.

        The last look and the removal of the socket happen under the start lock, so that no TD is ever given
        the socket of a service that is about to go.
        """
        idle_since = time.monotonic()
        while True:
            await asyncio.sleep(poll)
            if self.in_use():
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since >= grace:
                with contextlib.suppress(UnavailableError), lock(self.start_lock, wait=False):
                    if not self.in_use():
                        self.socket.unlink(missing_ok=True)
                        return


def ensure_running(
    runtime_dir: Path, pki_dir: Path, log: Path, *, quote_version: int = 4, timeout: float = START_SECONDS
) -> Path:
    """The socket of the user's quote generation service, which is started if it is not alive.

    What it reports is appended to `log`. Raises `UnavailableError` where it does not start, or does not
    answer, within `timeout` seconds.
    """
    service = Service.of_user(runtime_dir.absolute())
    make_private(runtime_dir)
    deadline = time.monotonic() + timeout
    with lock(service.start_lock):
        while is_locked(service.instance_lock):
            if _answers(service.socket):
                return service.socket
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"the quote generation service on {service.socket} is alive and does not answer",
                    hint=f"see {log}; end the process that holds {service.instance_lock}",
                )
            time.sleep(0.05)
        _start(service, pki_dir, log, quote_version, deadline)
    return service.socket


def _start(service: Service, pki_dir: Path, log: Path, quote_version: int, deadline: float) -> None:
    """Start the service detached and wait until clients can connect."""
    begin = log.stat().st_size if log.exists() else 0
    with _pipe() as (read_end, write_end):
        options = {
            "--pki-dir": pki_dir.absolute(),
            "--socket": service.socket,
            "--users-dir": service.users,
            "--quote-version": quote_version,
            "--ready-fd": write_end.fileno(),
        }
        words = [str(word) for option in options.items() for word in option]
        argv = [sys.executable, "-P", "-m", "tdxstack.quoting", *words]
        process = run.start(argv, log=log, pass_fds=(write_end.fileno(),))
        write_end.close()
        try:
            said = _said(read_end, deadline)
        except BaseException:
            _end(process)
            raise
    if said is None:
        _end(process)
        raise CommandError("the quote generation service did not start in time", hint=f"see {log}")
    if said != READY:
        with log.open("rb") as file:
            file.seek(max(begin, log.stat().st_size - _LOG_TAIL))
            tail = file.read().decode(errors="replace").strip()
        raise CommandError(f"the quote generation service did not start: {tail}", hint=f"see {log}")


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    read_end, write_end = os.pipe()
    with open(read_end, "rb", buffering=0) as reader, open(write_end, "wb", buffering=0) as writer:
        yield reader, writer


def _said(pipe: IO[bytes], deadline: float) -> bytes | None:
    """What the service writes when it is ready; nothing if it ends before; None if time is up."""
    readable, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
    return pipe.read(len(READY)) if readable else None


def _end(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGTERM)


def _answers(socket: Path) -> bool:
    try:
        client.get_platform_info(socket, timeout=_PROBE_SECONDS)
    except (UnavailableError, RejectedError, MalformedError):
        return False
    return True
