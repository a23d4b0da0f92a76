"""Build the emulating QEMU from a source tarball and the patch series, once for each pair of them."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tdxstack import files
from tdxstack.emulator.locate import DATA, RECORD, Emulator, home, make_current, work_directory
from tdxstack.emulator.recipe import PROGRAM, Patch, Recipe
from tdxstack.emulator.source import Source, file_sha256
from tdxstack.errors import CommandError, MalformedError, UnavailableError
from tdxstack.run import Report, run, silent, stream
from tdxstack.toolbox import host_packages
from tdxstack.toolbox.programs import Toolbox

NEEDED_BYTES = 1_000_000_000
"""Free space that a build needs; about 35 MB of it stay in use."""

_UNPACK_SECONDS = 15 * 60.0
_PIP_SECONDS = 10 * 60.0
_CONFIGURE_SECONDS = 20 * 60.0
_COMPILE_SECONDS = 4 * 3600.0
_VERSION_SECONDS = 60.0
_NINJA_PROGRESS = re.compile(r"\[(\d+)/(\d+)\]")
_EDK2_BLOB = re.compile(r"'(edk2-[A-Za-z0-9_-]+\.fd)'")
_DATA_PATTERNS = (
    *("bios*.bin", "vgabios*.bin", "qboot.rom", "kvmvapic.bin"),
    *("linuxboot*.bin", "multiboot*.bin", "pvh.bin"),
    *("efi-*.rom", "pxe-*.rom"),
)
_DONE = ".done"
# what a person's shell may carry and what must not decide about the result
_CLEAN = tuple(
    f"--unset={name}" for name in ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "PYTHONPATH", "NINJAFLAGS")
)


def build(
    cache: Path,
    source: Source,
    toolbox: Toolbox,
    *,
    now: datetime,
    report: Report = silent,
    jobs: int | None = None,
    recipe: Recipe | None = None,
) -> Emulator:
    """The emulator made of `source`: the one in `cache`, else built now and kept there. Makes it current.

    Uses `jobs` compilers at once (None: as many as there are processors). Another build in the same cache is
    waited for. An interrupted build leaves nothing that could be taken for a result, and is taken up again
    where it was. Raises `UnavailableError` where space, a program or a library is missing, `CommandError`
    where compiling fails, `MalformedError` where the tarball or a patch is not what it should be; the hint
    names the log.
    """
    recipe = recipe or Recipe.load()
    key = recipe.key(source.sha256)
    destination = home(cache) / key
    files.make_private(home(cache))
    lock = home(cache) / "lock"
    if files.is_locked(lock):
        report("waiting for another build of the emulator", None)
    with files.lock(lock):
        try:
            emulator = Emulator.read(destination)
        except MalformedError:
            emulator = _Build(cache, source, toolbox, recipe, report, jobs, now).run(destination)
        make_current(cache, emulator)
    return emulator


@dataclass(frozen=True, slots=True)
class _Build:
    cache: Path
    source: Source
    toolbox: Toolbox
    recipe: Recipe
    report: Report
    jobs: int | None
    now: datetime

    @property
    def work(self) -> Path:
        return work_directory(self.cache, self.recipe.key(self.source.sha256))

    @property
    def log(self) -> Path:
        return self.work / "build.log"

    def run(self, destination: Path) -> Emulator:
        started = time.monotonic()
        self.work.mkdir(parents=True, exist_ok=True)
        self._need_space()
        data = self.toolbox.tree("qemu-data", self.report)
        tree = self._unpack()
        python = self._python()
        self._configure(tree, python)
        self._compile()
        emulator = self._install(destination, tree, data, started)
        shutil.rmtree(self.work)
        return emulator

    def _need_space(self) -> None:
        free = shutil.disk_usage(self.work).free
        used = sum(path.lstat().st_size for path in self.work.rglob("*") if path.is_file())
        if free + used < NEEDED_BYTES:
            raise UnavailableError(
                f"{self.work} has {free / 1e6:.0f} MB free; building QEMU needs {NEEDED_BYTES / 1e6:.0f} MB",
                hint="free space there, for instance with `tdx cache prune`, or set XDG_CACHE_HOME",
            )

    def _unpack(self) -> Path:
        """The patched source tree. It appears under its name only when every patch is applied."""
        tree = self.work / "source"
        if tree.is_dir():
            return tree
        self.report("unpacking QEMU", 0.0)
        if file_sha256(self.source.path) != self.source.sha256:
            raise MalformedError(
                f"{self.source.path} has changed: its SHA-256 is not {self.source.sha256}",
                hint="get it again",
            )
        partial = self.work / "source.part"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        tar = ["tar", "--extract", "--strip-components=1", "--no-same-owner", "--file", str(self.source.path)]
        try:
            self._stream(tar, partial, _UNPACK_SECONDS)
        except CommandError as error:
            raise self._space_or(error, f"{self.source.path} cannot be unpacked") from error
        if not (partial / "configure").is_file():
            raise MalformedError(f"{self.source.path} is no source of QEMU", hint="it has no file configure")
        for index, patch in enumerate(self.recipe.patches):
            self.report(f"applying {patch.name}", 0.03 + 0.01 * index / len(self.recipe.patches))
            self._apply(patch, partial)
        _satisfy_blobs(partial)
        partial.rename(tree)
        return tree

    def _apply(self, patch: Patch, tree: Path) -> None:
        # no fuzz: a hunk that finds only part of its context may land in the wrong place
        options = ["--strip=1", "--forward", "--batch", "--no-backup-if-mismatch", "--fuzz=0"]
        command = ["patch", *options, "--input", str(patch.path)]
        try:
            self._stream(command, tree, _UNPACK_SECONDS)
        except CommandError as error:
            raise MalformedError(
                f"patch {patch.name} does not apply to QEMU {_version(tree)}", hint=f"see {self.log}"
            ) from error

    def _python(self) -> Path:
        """The Python of an environment with what QEMU's configure needs."""
        environment = self.work / "venv"
        python = environment / "bin/python3"
        if (environment / _DONE).exists():
            return python
        self.report("preparing QEMU's build environment", 0.04)
        shutil.rmtree(environment, ignore_errors=True)
        self._stream([sys.executable, "-m", "venv", str(environment)], self.work, _PIP_SECONDS)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        wanted = ["--only-binary=:all:", "--require-hashes", "--requirement", str(self.recipe.requirements)]
        try:
            self._stream([*pip, *wanted], self.work, _PIP_SECONDS)
        except CommandError as error:
            raise UnavailableError(
                "meson could not be installed with pip",
                hint=f"check the network and pip's index; see {self.log}",
            ) from error
        (environment / _DONE).touch()
        return python

    def _configure(self, tree: Path, python: Path) -> None:
        directory = self.work / "build"
        if (directory / _DONE).exists():
            return
        self.report("configuring QEMU", 0.06)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        try:
            self._stream(
                [str(tree / "configure"), f"--python={python}", *self.recipe.options],
                directory,
                _CONFIGURE_SECONDS,
            )
        except CommandError as error:
            raise self._lacking(error) from error
        (directory / _DONE).touch()

    def _compile(self) -> None:
        def on_line(line: str) -> None:
            match = _NINJA_PROGRESS.match(line)
            if match and int(match[2]):
                self.report(
                    f"compiling QEMU {match[1]}/{match[2]}", 0.1 + 0.89 * int(match[1]) / int(match[2])
                )

        jobs = [] if self.jobs is None else [f"-j{self.jobs}"]
        self.report("compiling QEMU", 0.1)
        try:
            self._stream(["ninja", *jobs, PROGRAM], self.work / "build", _COMPILE_SECONDS, on_line)
        except CommandError as error:
            raise self._space_or(error, "QEMU cannot be compiled") from error

    def _install(self, destination: Path, tree: Path, data: Path, started: float) -> Emulator:
        self.report("installing the emulator", 0.99)
        emulator = Emulator(
            directory=destination,
            version=_version(tree),
            key=destination.name,
            recipe=self.recipe.digest,
            source_sha256=self.source.sha256,
            source_origin=self.source.origin,
            patches=tuple(patch.name for patch in self.recipe.patches),
            data_packages=self.toolbox.packages("qemu-data"),
            built=self.now.astimezone(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - started, 1),
        )
        stage = self.work / "stage"
        shutil.rmtree(stage, ignore_errors=True)
        (stage / "bin").mkdir(parents=True)
        shutil.copy2(self.work / "build" / PROGRAM, stage / "bin" / PROGRAM)
        shutil.copytree(tree / "pc-bios/keymaps", stage / DATA / "keymaps")
        for path in _data_files(data):
            shutil.copy2(path, stage / DATA / path.name)
        shutil.copy2(self.log, stage / "build.log")
        run([str(stage / "bin" / PROGRAM), "--version"], timeout=_VERSION_SECONDS)
        files.write_atomically(stage / RECORD, emulator.record())
        shutil.rmtree(destination, ignore_errors=True)
        stage.rename(destination)
        return emulator

    def _stream(
        self,
        argv: Sequence[str],
        cwd: Path,
        timeout: float,
        on_line: Callable[[str], None] = lambda line: None,
    ) -> None:
        clean = ["env", *_CLEAN, "LC_ALL=C.UTF-8", *argv]
        stream(clean, log=self.log, cwd=cwd, timeout=timeout, on_line=on_line)

    def _space_or(self, error: CommandError, message: str) -> CommandError:
        """The error of a step that failed: no space, or whatever the tail of the log says."""
        if "No space left on device" in error.message:
            return CommandError(f"{message}: there is no space left", hint=f"free space below {self.cache}")
        return CommandError(f"{message}: {error.message}", hint=f"see {self.log}")

    def _lacking(self, error: CommandError) -> CommandError:
        """The error of a configure that failed, which mostly means that a compiler or library is missing."""
        packages = host_packages.missing(host_packages.needed(["emulator"]))
        hint = f"install {' '.join(packages)}; " if packages else ""
        return CommandError(f"QEMU cannot be configured: {error.message}", hint=f"{hint}see {self.log}")


def _satisfy_blobs(tree: Path) -> None:
    """Create, empty, the compressed firmware images that meson wants to see but that are never unpacked.

    Debian's tarballs lack them; pc-bios/meson.build names them wherever bzip2 is installed.
    """
    listing = tree / "pc-bios/meson.build"
    if listing.is_file():
        for name in _EDK2_BLOB.findall(listing.read_text()):
            (tree / "pc-bios" / f"{name}.bz2").touch()


def _data_files(data: Path) -> list[Path]:
    directories = [data / "usr/share/qemu", data / "usr/share/seabios", data / "usr/lib/ipxe/qemu"]
    found = [
        path for directory in directories for pattern in _DATA_PATTERNS for path in directory.glob(pattern)
    ]
    return sorted(path for path in found if path.is_file())


def _version(tree: Path) -> str:
    try:
        return (tree / "VERSION").read_text().strip()
    except FileNotFoundError:
        return "of unknown version"
