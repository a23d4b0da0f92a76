"""Files that are whole or absent: atomic writes, locks, directories of the invoking user."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import stat
import struct
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import UnavailableError, UsageError

_FLOCK = struct.Struct("@hhqqi0q")
"""struct flock of fcntl(2) where a file's offsets have 64 bits: type, whence, start, length, process."""

_WHOLE_FILE = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Directories:
    """Where tdxstack keeps its files (XDG base directories; 0700 for data and runtime)."""

    cache: Path
    data: Path
    runtime: Path

    @classmethod
    def of_user(cls, environ: Mapping[str, str], uid: int) -> Directories:
        """The directories of the user `uid`, by the XDG variables in `environ` or below the home."""
        home = Path(environ.get("HOME") or pwd.getpwuid(uid).pw_dir)
        cache = Path(environ.get("XDG_CACHE_HOME") or home / ".cache") / "tdxstack"
        data = Path(environ.get("XDG_DATA_HOME") or home / ".local/share") / "tdxstack"
        runtime = environ.get("XDG_RUNTIME_DIR")
        return cls(cache, data, Path(runtime) / "tdxstack" if runtime else data / "run")


def make_private(directory: Path) -> Path:
    """Create `directory`, and every missing one above it, readable by the owner only; return it."""
    for missing in reversed([path for path in (directory, *directory.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    return directory


def write_atomically(path: Path, data: bytes, *, mode: int | None = 0o644) -> None:
    """Write `data` to `path` so that a reader sees the old content or the new, never a part.

    Without a `mode`, for file systems that have none (FAT), permissions are left alone.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_secret(path: Path) -> bytes:
    """What is in `path`, which must be a file that only its owner and group can read or write.

    Raises `UsageError` if everybody can.
    """
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if mode & stat.S_IRWXO:
            raise UsageError(
                f"{path} is a secret that everybody can read or write (mode {stat.S_IMODE(mode):04o})",
                hint=f"make it your own: chmod 600 {path}",
            )
        return file.read()


def refuse_others(directory: Path, what: str) -> None:
    """Raise `UnavailableError` where others than the owner can reach `directory` or a `.key` file in it.

    `what` says in the error whose keys they are.
    """
    for path in (directory, *sorted(directory.glob("*.key"))):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UnavailableError(
                f"{path} has mode {mode:04o}: others can reach the keys of {what}",
                hint=f"chmod go= {path}; if somebody may have read it, move {directory} away instead",
            )


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A private directory to fill, which becomes `path` at the end of the block: whole or not at all.

    The caller holds a lock that keeps others from making the same one.
    """
    unfinished = path.with_name(f".{path.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    try:
        yield unfinished
        unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def lock(path: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold an exclusive lock on `path` for the block; yields its file descriptor.

    The lock belongs to the open file: a child that inherits the descriptor keeps it held. Only its holder
    may remove the file.
    Raises `UnavailableError` if `wait` is false and somebody else holds it.
    """
    make_private(path.parent)
    descriptor = _open_locked(path, wait)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_locked(path: Path, wait: bool) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, _WHOLE_FILE)
            # Whoever held it before may have removed the file: then this lock keeps nobody out.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise UnavailableError(
                    f"{path} is in use by another process", hint="wait for it to end"
                ) from None
            raise
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock on `path`. Asking takes nothing from who wants to lock it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        in_the_way = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _WHOLE_FILE)
    finally:
        os.close(descriptor)
    kind, *_ = _FLOCK.unpack(in_the_way)
    return bool(kind != fcntl.F_UNLCK)
