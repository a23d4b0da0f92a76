"""Built images: a directory each, whole or absent, with the disk and everything that says what it is."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tdxstack import files
from tdxstack.errors import MalformedError, UnavailableError
from tdxstack.run import Report

MANIFEST, SBOM, LOCK = "manifest.json", "sbom.spdx.json", "lock.json"
SECOND = "second."
"""How the names of caches begin that are there for one comparison only."""

KERNEL, INITRD, UNIFIED = "vmlinuz", "initrd", "kernel.efi"


@dataclass(frozen=True, slots=True)
class Image:
    """A guest's disk and what it was made of. The disk is read-only: machines write to overlays of it."""

    path: Path
    key: str
    name: str
    format: str
    """As QEMU calls it."""
    distribution: str
    release: str
    boot: str
    root: str
    root_hash: str
    """SHA-256 in hex of a verified root's hash tree; empty for one that is written to."""
    kernel_version: str
    kernel_command_line: str
    """As the boot loader passes it on; GRUB's BOOT_IMAGE included."""
    root_uuid: str
    build_time: int
    """Of the newest package, or as asked for, in seconds since 1970."""
    signed_by: str
    """SHA-256 in hex of the certificate whose key has signed the unified kernel image, or empty."""
    packages: dict[str, str]
    """Versions by name of what is installed in the guest, and of the boot loaders."""
    suites: dict[str, str]
    """Dates (ISO 8601, UTC) of the signed Release files that the packages were chosen from, by suite."""
    boot_files: dict[str, str]
    """SHA-256 in hex of the files that boot it: of the EFI system partition, and of /boot."""
    files: dict[str, str]
    """SHA-256 in hex of the disk and of what lies beside it, by name in the image's directory."""
    warnings: tuple[str, ...] = ()
    """What a guest of this image will not be able to do."""

    def file(self, name: str) -> Path | None:
        """A file beside the disk, such as `KERNEL`, if this image has it."""
        return self.path.with_name(name) if name in self.files else None


def load(directory: Path) -> Image:
    """The image in `directory`. Raises `MalformedError` where it is damaged or of another version."""
    try:
        record = json.loads((directory / MANIFEST).read_text())
        disk = next(name for name in record["files"] if name.startswith("disk."))
        record["warnings"] = tuple(record["warnings"])
        return Image(path=directory / disk, **record)
    except (ValueError, TypeError, KeyError, StopIteration, OSError):
        raise MalformedError(f"{directory} is damaged", hint="delete it; it will be made again") from None


def cached(cache: Path) -> list[Image]:
    """The images in the cache, newest last; without those of other versions of tdxstack."""
    found = []
    for path in sorted((cache / "images").glob("*/" + MANIFEST), key=lambda path: path.stat().st_mtime):
        with contextlib.suppress(MalformedError):
            found.append(load(path.parent))
    return found


def export(image: Image, directory: Path, report: Report) -> list[Path]:
    """Copy an image's files into `directory` under its name, with their checksums, and return the copies.

    Files of the same names are replaced, each as a whole, the checksums last. Raises `UnavailableError` where
    there is no room.
    """
    directory.mkdir(parents=True, exist_ok=True)
    names = [*image.files, MANIFEST]
    need = sum(image.path.with_name(name).stat().st_blocks * 512 for name in names)
    need_space(directory, need)
    copies = []
    sums = []
    for index, name in enumerate(names):
        report(f"copying {name}", index / len(names))
        source = image.path.with_name(name)
        suffix = name.removeprefix("disk")
        target = directory / (f"{image.name}{suffix}" if suffix.startswith(".") else f"{image.name}.{name}")
        _copy_sparse(source, target)
        copies.append(target)
        sums.append(f"{image.files.get(name) or sha256(source)}  {target.name}\n")
    listed = directory / f"{image.name}.sha256"
    files.write_atomically(listed, "".join(sorted(sums)).encode())
    return [*copies, listed]


def publish(result: Path, place: Path) -> None:
    """Move the finished directory `result` to `place`, durably and in one step."""
    for path in result.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    place.parent.mkdir(exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    result.replace(place)


@contextlib.contextmanager
def workspace(cache: Path, need: int) -> Iterator[Path]:
    """A directory for one build, gone afterwards. Raises `UnavailableError` unless `need` bytes are free."""
    need_space(cache, need)
    work = Path(tempfile.mkdtemp(prefix="work.", dir=cache))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def only_builder(cache: Path, report: Report) -> Iterator[None]:
    """Let one process at a time build in `cache`, and remove first what killed builds left."""
    cache.mkdir(parents=True, exist_ok=True)
    if files.is_locked(cache / "lock"):
        report("waiting for another build of an image", None)
    with files.lock(cache / "lock"):
        left = [*cache.glob("work.*")]
        left += [path for path in cache.glob(f"{SECOND}*") if not files.is_locked(path / "in-use")]
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        yield


@contextlib.contextmanager
def second_cache(cache: Path, report: Report) -> Iterator[Path]:
    """A cache of its own inside `cache`, to build in from nothing; gone afterwards."""
    with contextlib.ExitStack() as stack:
        with only_builder(cache, report):
            place = Path(tempfile.mkdtemp(prefix=SECOND, dir=cache))
            stack.callback(shutil.rmtree, place, ignore_errors=True)
            stack.enter_context(files.lock(place / "in-use"))
        yield place


def need_space(directory: Path, need: int) -> None:
    """Raise `UnavailableError` unless `directory` has `need` bytes free."""
    free = shutil.disk_usage(directory).free
    if free < need:
        raise UnavailableError(
            f"{directory} has {free / 1e9:.1f} GB free, and a guest image needs {need / 1e9:.1f} GB",
            hint="free space, for instance with `tdx cache prune`",
        )


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(image: Image) -> None:
    """Write what `image` says beside its disk."""
    record = {name: value for name, value in dataclasses.asdict(image).items() if name != "path"}
    image.path.with_name(MANIFEST).write_text(json.dumps(record, indent=1))


def _copy_sparse(source: Path, target: Path) -> None:
    """Copy, leaving out what is a hole in `source`; `target` is replaced as a whole."""
    partial = target.with_name(f".{target.name}.part")
    try:
        with source.open("rb") as file, partial.open("wb") as out:
            size = os.fstat(file.fileno()).st_size
            out.truncate(size)
            place = 0
            while place < size:
                try:
                    start = os.lseek(file.fileno(), place, os.SEEK_DATA)
                except OSError:
                    break
                place = os.lseek(file.fileno(), start, os.SEEK_HOLE)
                _copy_range(file.fileno(), out.fileno(), start, place)
            os.fsync(out.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        data = os.pread(source, min(end - start, 4 << 20), start)
        if not data:
            return
        os.pwrite(target, data, start)
        start += len(data)
