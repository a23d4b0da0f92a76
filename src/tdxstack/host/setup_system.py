"""What setting a host up may do to it: read and write files, run programs. Nothing else."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from tdxstack.errors import UnavailableError
from tdxstack.files import write_atomically
from tdxstack.host_access import SYSTEM_PATH, Output
from tdxstack.run import run, stream

ASK_SECONDS: Final = 60.0
CHANGE_SECONDS: Final = 30 * 60.0
"""Package managers download."""


class System(Protocol):
    """A host that is set up. Paths are absolute."""

    def read(self, path: str) -> bytes | None:
        """A file, or None where it does not exist."""

    def names(self, path: str) -> tuple[str, ...]:
        """The names in a directory, sorted; none where it does not exist."""

    def write(self, path: str, data: bytes) -> None:
        """Write a file, whole or not at all, making the directories above it.

        A new one may be read by all; one that exists keeps its mode.
        """

    def remove(self, path: str) -> None:
        """Delete a file."""

    def has(self, program: str) -> bool:
        """Whether there is such a program."""

    def ask(self, argv: Sequence[str]) -> Output:
        """Run a program that only looks. One that is missing answers with exit code 127."""

    def change(self, argv: Sequence[str]) -> None:
        """Run a program that changes the host; raises `CommandError` where it fails."""


@dataclass(frozen=True, slots=True)
class RealSystem:
    """This machine, or a tree below `root` with programs of its own on `search_path`.

    What programs that change the host print goes to `log`.
    """

    log: Path
    root: Path = Path("/")
    search_path: str = SYSTEM_PATH

    def read(self, path: str) -> bytes | None:
        try:
            return self._at(path).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except PermissionError:
            raise UnavailableError(
                f"{path} may not be read by this user", hint="run as root: sudo tdx …"
            ) from None

    def names(self, path: str) -> tuple[str, ...]:
        try:
            return tuple(sorted(entry.name for entry in self._at(path).iterdir()))
        except (FileNotFoundError, NotADirectoryError):
            return ()

    def write(self, path: str, data: bytes) -> None:
        target = self._at(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o644
        write_atomically(target, data, mode=mode)

    def remove(self, path: str) -> None:
        self._at(path).unlink(missing_ok=True)

    def has(self, program: str) -> bool:
        return any(os.access(Path(folder) / program, os.X_OK) for folder in self.search_path.split(":"))

    def ask(self, argv: Sequence[str]) -> Output:
        if not self.has(argv[0]):
            return Output(127, "", f"{argv[0]}: not found")
        done = run(self._found(argv), env=self._environment(), timeout=ASK_SECONDS, check=False)
        return Output(
            done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )

    def change(self, argv: Sequence[str]) -> None:
        if not self.has(argv[0]):
            raise UnavailableError(f"program {argv[0]} was not found", hint="install it, then go on")
        stream(self._found(argv), log=self.log, env=self._environment(), timeout=CHANGE_SECONDS)

    def _at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def _found(self, argv: Sequence[str]) -> list[str]:
        """The command with the path of its program: the environment's PATH is the child's, not ours."""
        places = (Path(folder) / argv[0] for folder in self.search_path.split(":"))
        program = next((place for place in places if os.access(place, os.X_OK)), Path(argv[0]))
        return [str(program), *argv[1:]]

    def _environment(self) -> Mapping[str, str]:
        return {
            "PATH": self.search_path,
            "LC_ALL": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
            "NEEDRESTART_MODE": "l",
        }
