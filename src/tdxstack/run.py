"""The one door to subprocesses: argv lists, time-outs, logs and clean-up."""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import shlex
import signal
import subprocess
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tdxstack.errors import CommandError, UnavailableError
from tdxstack.terminal import printable

Argv = Sequence[str | os.PathLike[str]]

Report = Callable[[str, float | None], None]
"""Receives progress: a short text, and the fraction done (0 to 1) where it is known."""

ERROR_TAIL_LINES = 15
ERROR_LINE_LENGTH = 300
READ_SIZE = 1 << 16
MAX_OUTPUT = 64 << 20
"""Bytes that a program may print before it is taken for one that never ends."""

STOP_GRACE_SECONDS = 5.0

_F_SETSIG = 10
"""fcntl(2); not in Python's module."""


def silent(_text: str, _fraction: float | None = None) -> None:
    """A `Report` that shows nothing."""


@dataclass(frozen=True, slots=True)
class Completed:
    """What a program that has ended left behind."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes


def command_line(argv: Argv) -> str:
    """The argument vector as a person would type it."""
    return shlex.join(os.fspath(word) for word in argv)


def run(
    argv: Argv,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    input: bytes = b"",
    timeout: float | None = None,
    check: bool = True,
    max_output: int = MAX_OUTPUT,
    cancel: int | None = None,
) -> Completed:
    """Run a program to its end and return its output; `input` is at most a pipe full (64 KiB).

    Raises `UnavailableError` where the program is missing and `CommandError` where it fails
    (`check`), overruns `timeout` seconds, prints more than `max_output` bytes, or the file descriptor
    `cancel` can be read. The whole process group dies with the call.
    """
    words = tuple(os.fspath(word) for word in argv)
    with _group(
        words,
        cwd=cwd,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        stdout, stderr = _collect(process, words, input, timeout, max_output, cancel)
    if check and process.returncode:
        raise failure(words, process.returncode, stderr.decode(errors="replace"))
    return Completed(words, process.returncode, stdout, stderr)


async def run_async(
    argv: Argv,
    *,
    env: Mapping[str, str] | None = None,
    input: bytes = b"",
    timeout: float | None = None,
    check: bool = True,
    max_output: int = MAX_OUTPUT,
) -> Completed:
    """`run`, awaited; where the wait is cancelled, the program's whole group has ended when this returns."""
    # Here, since most commands do without them.
    import asyncio
    import concurrent.futures

    cancel, ours = os.pipe()

    def call() -> Completed:
        return run(
            argv, env=env, input=input, timeout=timeout, check=check, max_output=max_output, cancel=cancel
        )

    # A thread of its own: asyncio's are few, and all of them may be waiting for programs.
    thread = concurrent.futures.ThreadPoolExecutor(1)
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, call)
    finally:
        os.close(ours)
        thread.shutdown()
        os.close(cancel)


def stream(
    argv: Argv,
    *,
    log: Path,
    on_line: Callable[[str], None] = lambda line: None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> None:
    """Run a program to its end, appending stdout and stderr to `log` and giving each line to `on_line`.

    Raises as `run` does; the error carries the tail of the log.
    """
    words = tuple(os.fspath(word) for word in argv)
    deadline = None if timeout is None else time.monotonic() + timeout
    tail: list[str] = []
    with (
        log.open("ab") as record,
        _group(
            words,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        record.write(f"$ {command_line(words)}\n".encode())
        assert process.stdout is not None
        timer = _kill_at(process, deadline)
        with timer:
            for raw in process.stdout:
                record.write(raw)
                line = raw.decode(errors="replace").rstrip()
                tail = [*tail[-ERROR_TAIL_LINES + 1 :], line]
                on_line(line)
            process.wait()
    if timer.fired:
        raise CommandError(f"{words[0]} did not end within {timeout:g} s", hint=f"see {log}")
    if process.returncode:
        raise failure(words, process.returncode, "\n".join(tail), hint=f"see {log}")


class Conversation:
    """A program that answers, one line for each line that it is given; see `converse`."""

    def __init__(self, process: subprocess.Popen[bytes], words: Sequence[str], errors: IO[bytes]) -> None:
        self._process = process
        self._words = words
        self._errors = errors

    def ask(self, line: str, answer: str) -> str:
        """Send a line; return what comes back behind the word `answer`, passing over other lines.

        Raises `CommandError` where the program ends instead.
        """
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        for raw in self._process.stdout:
            word, _, rest = raw.decode(errors="replace").strip().partition(" ")
            if word == answer:
                return rest
        self._errors.seek(0)
        raise failure(self._words, self._process.wait(), self._errors.read().decode(errors="replace"))


@contextlib.contextmanager
def converse(argv: Argv, *, timeout: float) -> Iterator[Conversation]:
    """Run a program for as long as the block lasts, at most `timeout` seconds, and talk to it by lines.

    Raises `UnavailableError` where it is missing. The whole process group dies with the block.
    """
    words = tuple(os.fspath(word) for word in argv)
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile() as errors,
        _group(words, cwd=None, env=None, stdin=pipe, stdout=pipe, stderr=errors) as process,
        _kill_at(process, time.monotonic() + timeout),
    ):
        yield Conversation(process, words, errors)


def start(
    argv: Argv,
    *,
    log: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> int:
    """Start a program that outlives this one, in a session of its own; return its process id.

    Its output is appended to `log`. The caller owns the process and ends it.
    """
    words = tuple(os.fspath(word) for word in argv)
    with log.open("ab") as record:
        try:
            process = subprocess.Popen(
                words,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=record,
                stderr=record,
                start_new_session=True,
                pass_fds=pass_fds,
            )
        except FileNotFoundError:
            raise missing_program(words[0]) from None
    return process.pid


class Leash:
    """Ends one program when this process ends, however that comes about.

    The program inherits the reading end of a pipe, and the kernel is told to send it SIGKILL when the writing
    end closes, which only this process holds (F_SETOWN and F_SETSIG of fcntl(2)). That needs no process that
    watches, and unlike PR_SET_PDEATHSIG does not depend on the thread that started the program.
    """

    def __init__(self) -> None:
        self._theirs, ours = os.pipe()
        self._open = [ours, self._theirs]

    @property
    def descriptor(self) -> int:
        """What the program is to inherit."""
        return self._theirs

    def tie(self, pid: int) -> None:
        """Tie the program that has inherited the descriptor; from then on `cut` ends it."""
        fcntl.fcntl(self._theirs, fcntl.F_SETOWN, pid)
        fcntl.fcntl(self._theirs, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(self._theirs, fcntl.F_SETFL, fcntl.fcntl(self._theirs, fcntl.F_GETFL) | os.O_ASYNC)

    def release(self) -> None:
        """Let the program live on without this process."""
        fcntl.fcntl(self._theirs, fcntl.F_SETFL, fcntl.fcntl(self._theirs, fcntl.F_GETFL) & ~os.O_ASYNC)
        self.cut()

    def cut(self) -> None:
        """End the program, if it still lives; may be called again."""
        while self._open:
            os.close(self._open.pop())


def _collect(
    process: subprocess.Popen[bytes],
    words: Sequence[str],
    input: bytes,
    timeout: float | None,
    max_output: int,
    cancel: int | None,
) -> tuple[bytes, bytes]:
    """Feed a child and read what it prints, until it ends."""
    assert process.stdin and process.stdout and process.stderr
    deadline = None if timeout is None else time.monotonic() + timeout
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(input)
        process.stdin.close()
    printed = {process.stdout: bytearray(), process.stderr: bytearray()}
    with selectors.DefaultSelector() as selector:
        for pipe in printed:
            selector.register(pipe, selectors.EVENT_READ)
        if cancel is not None:
            selector.register(cancel, selectors.EVENT_READ)
        open_pipes = len(printed)
        while open_pipes:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = selector.select(left)
            if not ready and left is not None:
                raise _overrun(words, timeout)
            for key, _ in ready:
                if key.fileobj == cancel:
                    raise CommandError(f"{words[0]} was ended before its time")
                pipe = process.stdout if key.fileobj is process.stdout else process.stderr
                data = os.read(pipe.fileno(), READ_SIZE)
                printed[pipe] += data
                if not data:
                    selector.unregister(pipe)
                    open_pipes -= 1
                if len(printed[pipe]) > max_output:
                    raise CommandError(f"{words[0]} printed more than {max_output} bytes")
    try:
        process.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise _overrun(words, timeout) from None
    return bytes(printed[process.stdout]), bytes(printed[process.stderr])


def _overrun(words: Sequence[str], timeout: float | None) -> CommandError:
    hint = f"the command was: {command_line(words)}"
    return CommandError(f"{words[0]} did not end within {timeout:g} s", hint=hint)


def failure(words: Sequence[str], returncode: int, output: str, *, hint: str = "") -> CommandError:
    """The error for a program that ended badly, with the end of what it printed."""
    lines = [printable(line) for line in output.strip().splitlines()[-ERROR_TAIL_LINES:]]
    tail = "\n".join(textwrap.shorten(line, ERROR_LINE_LENGTH, placeholder=" ...") for line in lines)
    ended = f"was ended by signal {-returncode}" if returncode < 0 else f"failed with exit code {returncode}"
    message = f"{Path(words[0]).name} {ended}" + (f": {tail}" if tail else "")
    return CommandError(message, hint=hint or f"the command was: {command_line(words)}")


def missing_program(name: str) -> UnavailableError:
    """The error for a program that is not on this machine."""
    return UnavailableError(f"program {name} was not found", hint="install it, or check your PATH")


@contextlib.contextmanager
def _group(
    words: tuple[str, ...],
    *,
    cwd: Path | None,
    env: Mapping[str, str] | None,
    stdin: int,
    stdout: int,
    stderr: int | IO[bytes],
    pass_fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """A child in its own process group, which is ended when the block is left in any way."""
    try:
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env=env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            pass_fds=pass_fds,
        )
    except FileNotFoundError:
        raise missing_program(words[0]) from None
    try:
        yield process
    finally:
        end_group(process)
        _close(process.stdin, process.stdout, process.stderr)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a child and its whole process group: SIGTERM, then SIGKILL after a grace.

    A group outlives its leader: children that a program left behind are ended too.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(STOP_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _close(*pipes: IO[bytes] | None) -> None:
    for pipe in pipes:
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


class _kill_at:
    """Ends a child's process group at a deadline of the monotonic clock."""

    def __init__(self, process: subprocess.Popen[bytes], deadline: float | None) -> None:
        import threading

        self.fired = False
        self._process = process
        self._timer = (
            None if deadline is None else threading.Timer(max(0.0, deadline - time.monotonic()), self._fire)
        )

    def _fire(self) -> None:
        self.fired = True
        end_group(self._process)

    def __enter__(self) -> _kill_at:
        if self._timer:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer:
            self._timer.cancel()
