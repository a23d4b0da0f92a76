"""What fills the cache directory: each thing in it, what it is kept for, and how to be rid of the rest.

Everything in the cache can be fetched or made again. What a machine has, or what a process has open, stays.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote

from tdxstack import files
from tdxstack.emulator import locate
from tdxstack.emulator.locate import Emulator
from tdxstack.errors import MalformedError, TdxError
from tdxstack.files import Directories
from tdxstack.firmware.fetch import PACKAGE
from tdxstack.image import built, trees
from tdxstack.image.packages import Lock
from tdxstack.machine.store import MachineStore
from tdxstack.prediction.qcow2 import MAX_CHAIN, backing_file
from tdxstack.toolbox import programs

MACHINE, PROCESS = "machine", "process"

LEFT_OVER, UNKNOWN = "left over", "unknown"
"""Kinds: what was interrupted has left; what no version of this program is known to have put there."""

_LOCKS = (
    *("image/lock", "image/second.*/in-use", "emulator/lock", "apt/*/lock"),
    *("toolbox/.*.lock", "toolbox/*/.*.lock", "firmware/.*.lock"),
)
"""Held by whoever fetches or builds something."""

_PRUNED = "pruned."
_LEFT_OVER = (
    *("*/pruned.*", "image/work.*", "image/second.*", "image/inspect.*", "image/bases/.*.part*"),
    *("prediction/inspect.*", "emulator/work/*", "sources/.*.part*", "apt/*/cache/archives/partial/*"),
    *("apt/*/cache/sources/partial/*", "toolbox/*/.*.part", "firmware/.*.part"),
)
_KNOWN = {
    "": ("apt", "collateral", "emulator", "firmware", "image", "prediction", "sources", "toolbox"),
    "emulator": ("current", "lock", "work"),
    "image": ("bases", "images", "lock", "mkosi-packages", "trees"),
}
"""Names in the cache directory and in two of those in it, besides what is found to be something."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in the cache."""

    kind: str
    name: str
    place: Path
    """Where it is, or the directory of what it consists of."""
    paths: tuple[Path, ...]
    """What is deleted with it."""
    size: int
    """Bytes that it takes on disk."""
    used: datetime
    """When it was read or written last, as far as the file system tells."""
    needed: str
    """What it is kept for, unless everything is to go; may be empty."""
    users: tuple[str, ...]
    """Machines and processes that have it; it is never deleted while there are any."""

    def to_json(self) -> dict[str, object]:
        """The entry as `tdx cache list --json` prints it."""
        return {
            "kind": self.kind,
            "name": self.name,
            "path": str(self.place),
            "size": self.size,
            "last_used": self.used.isoformat(timespec="seconds"),
            "needed": self.needed or None,
            "users": list(self.users),
        }


@dataclass(frozen=True, slots=True)
class _Found:
    kind: str
    name: str
    place: Path
    paths: tuple[Path, ...]
    needed: str = ""
    users: tuple[str, ...] = ()
    read: Path | None = None
    """What is read whenever it is used, where other files of it are read to list it."""


def entries(directories: Directories, now: datetime, proc: Path = Path("/proc")) -> list[Entry]:
    """Everything in the cache, by kind and name; nothing is changed."""
    cache = directories.cache.resolve()
    building = any(map(files.is_locked, _locks(cache)))
    return _entries(directories, now, proc, left_over_of=("a build that is under way",) if building else ())


def _entries(
    directories: Directories, now: datetime, proc: Path, left_over_of: tuple[str, ...] = ()
) -> list[Entry]:
    cache = directories.cache.resolve()
    found = list(_found(cache, left_over_of))
    claims = _claims(directories, cache, proc)
    return sorted(
        (_entry(one, claims, now) for one in found if any(map(os.path.lexists, one.paths))),
        key=lambda one: (one.kind, one.name, str(one.place)),
    )


def unneeded(
    found: Iterable[Entry], now: datetime, *, everything: bool = False, older_than: timedelta = timedelta(0)
) -> list[Entry]:
    """What of `found` may go: what nothing uses, and unless it is `everything`, what nothing needs."""
    return [
        one
        for one in found
        if not one.users
        and one.kind != UNKNOWN
        and (everything or not one.needed)
        and now - one.used >= older_than
    ]


def prune(
    directories: Directories,
    now: datetime,
    *,
    everything: bool = False,
    older_than: timedelta = timedelta(0),
    proc: Path = Path("/proc"),
) -> list[Entry]:
    """Delete what `unneeded` names, and return it.

    Raises `UnavailableError` while something is being fetched or built.
    """
    cache = directories.cache.resolve()
    with contextlib.ExitStack() as held:
        for path in _locks(cache):
            held.enter_context(files.lock(path, wait=False))
        gone = unneeded(_entries(directories, now, proc), now, everything=everything, older_than=older_than)
        for one in gone:
            _delete(one, cache)
    return gone


def _locks(cache: Path) -> list[Path]:
    return sorted({path for pattern in _LOCKS for path in cache.glob(pattern)})


def _delete(entry: Entry, cache: Path) -> None:
    """Delete, so that nobody takes what is half gone for whole; the next `prune` ends what is interrupted."""
    home = cache / entry.place.relative_to(cache).parts[0]
    directories = [path for path in entry.paths if path.is_dir() and not path.is_symlink()]
    for path in entry.paths:
        if path not in directories:
            path.unlink(missing_ok=True)
    if directories:
        bin_ = Path(tempfile.mkdtemp(prefix=_PRUNED, dir=home))
        for number, path in enumerate(directories):
            path.rename(bin_ / str(number))
        shutil.rmtree(bin_)


def _entry(one: _Found, claims: Mapping[Path, set[str]], now: datetime) -> Entry:
    size, used = 0, 0.0
    for path in one.paths:
        for file in _files(path):
            with contextlib.suppress(FileNotFoundError):
                status = file.lstat()
                size += status.st_blocks * 512
                if one.read is None or file.is_relative_to(one.read):
                    used = max(used, status.st_atime, status.st_mtime)
    if not used:
        # Nothing is in it yet, or no longer.
        with contextlib.suppress(FileNotFoundError):
            used = one.place.lstat().st_mtime
    users = {user for path in one.paths for user in claims.get(path, ())}
    return Entry(
        kind=one.kind,
        name=one.name,
        place=one.place,
        paths=one.paths,
        size=size,
        used=min(datetime.fromtimestamp(used, UTC), now),
        needed=one.needed,
        users=(*one.users, *sorted(users)),
    )


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir() and not path.is_symlink():
        for directory, _, names in os.walk(path):
            yield from (Path(directory, name) for name in names)
    else:
        yield path


def _found(cache: Path, left_over_of: tuple[str, ...]) -> Iterator[_Found]:
    images = {path: _image(path) for path in _children(cache / "image/images")}
    locks = [lock for path in images if (lock := _lock(path)) is not None]
    known = [
        *(_left_over(path, left_over_of) for pattern in _LEFT_OVER for path in sorted(cache.glob(pattern))),
        *_images(images),
        *_trees(cache / "image", locks),
        *_bases(cache / "image"),
        *_logs(cache / "image"),
        *_emulators(cache),
        *_tools(cache / "toolbox"),
        *_firmware(cache / "firmware"),
        *_packages(cache / "apt", locks),
        *_answers(cache),
    ]
    yield from known
    taken = {path for one in known for path in one.paths}
    for name, names in _KNOWN.items():
        for path in _children(cache / name):
            if path not in taken and path.name not in names:
                yield _Found(UNKNOWN, path.name, path, (path,))


def _left_over(path: Path, users: tuple[str, ...] = ()) -> _Found:
    return _Found(LEFT_OVER, path.name, path, (path,), users=users)


def _image(place: Path) -> built.Image | None:
    try:
        return built.load(place)
    except MalformedError:
        return None


def _lock(place: Path) -> Lock | None:
    with contextlib.suppress(OSError, MalformedError):
        return Lock.parse((place / built.LOCK).read_bytes())
    return None


def _images(images: Mapping[Path, built.Image | None]) -> Iterator[_Found]:
    newest: dict[str, Path] = {}
    whole = [path for path, image in images.items() if image is not None]
    for path in sorted(whole, key=lambda path: (path / built.MANIFEST).stat().st_mtime):
        image = images[path]
        if image is not None:
            newest[image.name] = path
    for path, image in images.items():
        if image is None:
            yield _Found("image", path.name, path, (path,))
            continue
        others = {file.name for file in path.iterdir()} - {*image.files, built.MANIFEST}
        yield _Found(
            *("image", f"{image.name} {image.key[:8]}", path, (path,)),
            needed="the newest of its name" if newest[image.name] == path else "",
            # overlays of libvirt's machines, for instance
            users=tuple(f"file {name}" for name in sorted(others)),
            read=image.path,
        )


def _trees(cache: Path, locks: Sequence[Lock]) -> Iterator[_Found]:
    groups = [lock.groups for lock in locks]
    for path in _children(cache / "trees"):
        try:
            tree = trees.load(path)
        except (MalformedError, OSError):
            yield _Found("installed packages", path.name, path, (path,))
            continue
        yield _Found(
            *("installed packages", f"{tree.distribution_name} {tree.release}", path, (path,)),
            needed="images made of them" if tree.lock.groups in groups else "",
            read=tree.archive,
        )


def _bases(cache: Path) -> Iterator[_Found]:
    for path in _children(cache / "bases"):
        if not path.name.startswith("."):
            yield _Found("base", path.name, path, (path,), needed="images made of it")
    packages = cache / "mkosi-packages"
    yield _Found("packages", "of mkosi", packages, (packages,), needed="the next base of mkosi")


def _logs(cache: Path) -> Iterator[_Found]:
    for path in sorted(cache.glob("*.log")):
        yield _Found("log", path.name, path, (path,), needed="what the last build said")


def _emulators(cache: Path) -> Iterator[_Found]:
    current = locate.locate(cache)
    for path in _children(locate.home(cache)):
        if path.is_dir() and not path.name.startswith(_PRUNED) and path.name != "work":
            try:
                one = Emulator.read(path)
            except MalformedError:
                yield _left_over(path)
                continue
            yield _Found(
                *("emulator", f"QEMU {one.version} {one.key[:8]}", path, (path,)),
                needed="the next machine" if one == current else "",
                read=one.binary,
            )


def _tools(place: Path) -> Iterator[_Found]:
    records = {path: _record(path) for path in sorted(place.glob("*.json"))}
    for path in _children(place):
        if re.fullmatch(r".+-[0-9a-f]{16}", path.name):
            record = next((file for file, tree in records.items() if tree == path.name), None)
            known = record is not None and record.stem in programs.TOOLSETS
            yield _Found(
                *("tools", path.name, path, (path, record) if record else (path,)),
                needed="the newest of its kind" if known else "",
                read=path / "root",
            )


def _record(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(path.read_bytes())["tree"])
    return ""


def _firmware(place: Path) -> Iterator[_Found]:
    found = [path for path in _children(place) if path.name.startswith(f"{PACKAGE}_")]
    newest = max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
    for path in found:
        lock = path.with_name(f".{path.name}.lock")
        yield _Found(
            *("firmware", path.name, path, (path, lock)),
            needed="the next machine" if path == newest else "",
            read=path,
        )


def _packages(place: Path, locks: Sequence[Lock]) -> Iterator[_Found]:
    """Of each private apt root what it has downloaded, and its lists."""
    groups = [group for lock in locks for group in lock.groups.values()]
    locked = {(name, version) for group in groups for name, (version, _) in group.items()}
    for root in (path for path in _children(place) if not path.name.startswith(_PRUNED)):
        archives = root / "cache/archives"
        debs = sorted(archives.glob("*.deb"))
        kept = tuple(path for path in debs if _identity(path) in locked)
        others = tuple(path for path in debs if _identity(path) not in locked)
        yield _Found("packages", root.name, archives, kept, needed="lock files of images")
        yield _Found("packages", root.name, archives, others)
        for path in _children(root / "cache/sources"):
            if path.name != "partial":
                yield _Found("source", path.name, path, (path,))
        binary = tuple(sorted((root / "cache").glob("*.bin")))
        lists = (root / "updated", root / "state/lists", *binary)
        yield _Found("package lists", root.name, root, lists, needed="the next download")


def _identity(deb: Path) -> tuple[str, str]:
    name, _, rest = unquote(deb.name).partition("_")
    return name, rest.partition("_")[0]


def _answers(cache: Path) -> Iterator[_Found]:
    for path in _children(cache / "sources"):
        if not path.name.startswith("."):
            yield _Found("source", path.name, path, (path,))
    of_pcs, of_qemu = (tuple(sorted((cache / name).glob("*.json"))) for name in ("collateral", "prediction"))
    needed = "verifying without network"
    yield _Found("collateral", "answers of a PCS or PCCS", cache / "collateral", of_pcs, needed=needed)
    yield _Found("prediction", "answers of QEMU", cache / "prediction", of_qemu)


def _claims(directories: Directories, cache: Path, proc: Path) -> dict[Path, set[str]]:
    """What machines and processes name of the cache, and every directory above that; and who does."""
    claims: dict[Path, set[str]] = defaultdict(set)
    roots = {str(cache), str(directories.cache.absolute())}
    # as it is in JSON, and with the commas doubled, in QEMU's options
    forms = {form for root in roots for form in (root, json.dumps(root)[1:-1], root.replace(",", ",,"))}
    pattern = re.compile(rf"(?:{'|'.join(map(re.escape, sorted(forms)))})(/[^\s\0\"',;]*)")
    for who, words in [*_machines(directories), *_processes(proc)]:
        for word in words:
            for match in pattern.finditer(word):
                path = Path(f"{cache}{match[1]}")
                for above in (path, *path.parents):
                    claims[above].add(who)
    return claims


def _machines(directories: Directories) -> Iterator[tuple[str, list[str]]]:
    """Every machine, and words in which are the paths that it needs to start again."""
    store = MachineStore(directories)
    for name in store.names():
        words = [str(path) for disk in store.files(name).directory.glob("*.qcow2") for path in _chain(disk)]
        with contextlib.suppress(MalformedError):
            state = store.load(name)
            words += [*state.argv, *state.tpm]
        yield f"{MACHINE} {name}", words


def _chain(disk: Path) -> Iterator[Path]:
    below: Path | None = disk
    for _ in range(MAX_CHAIN):
        if below is None:
            return
        yield below.resolve()
        try:
            below = backing_file(below)
        except TdxError:
            return


def _processes(proc: Path) -> Iterator[tuple[str, list[str]]]:
    """Every other process that may be looked at: what it was started with, what it is, what it has open."""
    for place in proc.glob("[0-9]*"):
        if place.name == str(os.getpid()):
            continue
        words = []
        with contextlib.suppress(OSError):
            words += (place / "cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
        for link in (place / "exe", place / "cwd", *_children(place / "fd")):
            with contextlib.suppress(OSError):
                words.append(str(link.readlink()))
        yield f"{PROCESS} {place.name}", words


def _children(directory: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        return sorted(directory.iterdir())
    return []
