"""The emulators that have been built: where they are, what they were made of, which one is current."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from tdxstack import files
from tdxstack.emulator.recipe import PROGRAM, Recipe
from tdxstack.errors import MalformedError

RECORD = "build.json"
DATA = "share/qemu"
_CURRENT = "current"
_WORK = "work"


@dataclass(frozen=True, slots=True)
class Emulator:
    """A built QEMU with the series applied."""

    directory: Path
    version: str
    key: str
    recipe: str
    source_sha256: str
    source_origin: str
    patches: tuple[str, ...]
    data_packages: dict[str, str]
    """The packages that the option ROMs come from, with their versions."""
    built: str
    """When it was built, ISO 8601 in UTC."""
    seconds: float
    """How long that took."""

    @property
    def binary(self) -> Path:
        """The program."""
        return self.directory / "bin" / PROGRAM

    @property
    def data_dir(self) -> Path:
        """SeaBIOS, option ROMs and what `-kernel` loads."""
        return self.directory / DATA

    @property
    def argv_prefix(self) -> list[str]:
        """The first words of every command line of this emulator."""
        return [str(self.binary), "-L", str(self.data_dir)]

    @classmethod
    def read(cls, directory: Path) -> Emulator:
        """The emulator in `directory`. Raises `MalformedError` where there is no whole one."""
        try:
            fields = json.loads((directory / RECORD).read_bytes())
            fields["patches"] = tuple(fields["patches"])
            emulator = cls(directory=directory, **fields)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise MalformedError(f"{directory} holds no emulator: {error}", hint="build it again") from None
        if not emulator.binary.is_file():
            raise MalformedError(f"{emulator.binary} is missing", hint="build the emulator again")
        return emulator

    def record(self) -> bytes:
        """What `read` reads."""
        fields = asdict(self)
        del fields["directory"]
        return json.dumps(fields, indent=1).encode()


def home(cache: Path) -> Path:
    """Where emulators are kept below the user's cache directory."""
    return cache / "emulator"


def work_directory(cache: Path, key: str) -> Path:
    """Where the emulator of `key` is being built."""
    return home(cache) / _WORK / key


def make_current(cache: Path, emulator: Emulator) -> None:
    """Let `locate` find `emulator` from now on."""
    files.write_atomically(home(cache) / _CURRENT, emulator.key.encode())


def locate(cache: Path, recipe: Recipe | None = None) -> Emulator | None:
    """The emulator that was built or asked for last, if `recipe` (default: this version's own) made it."""
    try:
        key = (home(cache) / _CURRENT).read_text().strip()
        emulator = Emulator.read(home(cache) / key)
    except (FileNotFoundError, MalformedError):
        return None
    return emulator if emulator.recipe == (recipe or Recipe.load()).digest else None


def status(cache: Path) -> list[Emulator]:
    """Every emulator that has been built, the newest first."""
    found = []
    for path in home(cache).glob("*/" + RECORD):
        with contextlib.suppress(MalformedError):
            found.append(Emulator.read(path.parent))
    return sorted(found, key=lambda emulator: emulator.built, reverse=True)


def prune(cache: Path, recipe: Recipe | None = None) -> list[Path]:
    """Delete all emulators but the current one, and what interrupted builds left; return what is gone.

    Waits for a build that is under way. Machines that run a deleted emulator keep running.
    """
    current = locate(cache, recipe)
    gone = []
    with files.lock(home(cache) / "lock"):
        candidates = [path for path in home(cache).iterdir() if path.is_dir()]
        for path in sorted(candidates):
            if current is None or path != current.directory:
                shutil.rmtree(path)
                gone.append(path)
    return gone
