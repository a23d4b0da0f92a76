"""Installed trees in the cache: the longest stage of a build, shared by all images of the same packages."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import MalformedError
from tdxstack.image import base_tree, sbom
from tdxstack.image.boot_chain import Loaders
from tdxstack.image.built import publish, workspace
from tdxstack.image.distribution import BOOT_LOADERS, DISTRIBUTIONS, ESSENTIAL, GRUB, STUB, Distribution
from tdxstack.image.packages import Lock, local_digests, names, select, select_locked
from tdxstack.image.recipe import ImageRecipe
from tdxstack.run import Report
from tdxstack.toolbox.apt import AptRoot, Deb, extract

VERSION = 2
"""Counts up with every change to how trees are made that no digest in the cache key would show."""

NEED = 3 << 29
"""Bytes of disk that installing takes at most, besides what is downloaded."""

_TREE = "tree.json"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a tree's packages are from."""

    distribution: str
    release: str
    apt: Callable[[], AptRoot]
    """Called only where something must be fetched; the network is used only then."""


@dataclass(frozen=True, slots=True)
class Tree:
    """An installed tree in the cache, with the boot loaders that belong to it."""

    directory: Path
    distribution_name: str
    release: str
    build_time: int
    packages: dict[str, str]
    suites: dict[str, str]
    licences: dict[str, str]
    lock: Lock

    @property
    def distribution(self) -> Distribution:
        """What its distribution is like."""
        return DISTRIBUTIONS[self.distribution_name]

    @property
    def archive(self) -> Path:
        """The tree itself, a tar archive."""
        return self.directory / "base.tar"

    @property
    def loaders(self) -> Loaders:
        """The boot loaders."""
        return Loaders(*(self.directory / name for name in _LOADERS))


_LOADERS = ("shimx64.efi", "grubx64.efi", "linuxx64.efi.stub")


def tree_of(
    recipe: ImageRecipe,
    origin: Origin,
    cache: Path,
    *,
    uid: int,
    report: Report,
    refresh: bool = False,
    lock: Lock | None = None,
) -> Tree:
    """The tree of the packages of `recipe`, installed if there is none in the cache.

    With `refresh` the archive is asked for newer packages; with a `lock` exactly its packages are taken. The
    caller holds the cache's lock.
    """
    stem = _stem(recipe, origin)
    if lock is None and not refresh:
        found = [(path.stat().st_mtime, path.parent) for path in (cache / "trees").glob(f"{stem}-*/{_TREE}")]
        if found:
            return load(max(found)[1])
    if lock is not None:
        for path in (cache / "trees").glob(f"{stem}-*/{_TREE}"):
            if path.parent.name.endswith(_digest(_locked_identities(lock))):
                return load(path.parent)
    return _make(recipe, origin, cache, stem, uid, report, lock)


def _make(
    recipe: ImageRecipe,
    origin: Origin,
    cache: Path,
    stem: str,
    uid: int,
    report: Report,
    lock: Lock | None,
) -> Tree:
    apt = origin.apt()
    releases = apt.update(report)
    report("guest packages", None)
    selection = select_locked(recipe, lock, apt, report) if lock else select(recipe, apt, report)
    place = cache / "trees" / f"{stem}-{_digest(selection.identities())}"
    if not (place / _TREE).is_file():
        with workspace(cache, NEED) as work:
            result = work / "tree"
            result.mkdir()
            log = cache / "install.log"
            made = base_tree.install(
                selection.essential, selection.others, work / "install", log=log, uid=uid, report=report
            )
            made.replace(result / "base.tar")
            _extract_loaders(selection.loaders, DISTRIBUTIONS[origin.distribution], work, result)
            epoch = base_tree.build_time(selection.all)
            record = {
                "distribution_name": origin.distribution,
                "release": origin.release,
                "build_time": epoch,
                "packages": {deb.name: deb.version for deb in selection.all},
                "suites": {release.suite: release.date.isoformat() for release in releases},
                "licences": sbom.licences(result / "base.tar"),
                "lock": Lock.of(selection, origin.distribution, origin.release, epoch).to_json().decode(),
            }
            (result / _TREE).write_text(json.dumps(record, indent=1))
            publish(result, place)
    return load(place)


def _extract_loaders(debs: Sequence[Deb], distribution: Distribution, work: Path, result: Path) -> None:
    root = extract(debs, work / "loaders")
    for path, name in zip((distribution.shim, GRUB, STUB), _LOADERS, strict=True):
        if not (root / path).is_file():
            raise MalformedError(
                f"the archive's boot loaders have no file {path}", hint="use another --mirror"
            )
        shutil.copyfile(root / path, result / name)


def load(place: Path) -> Tree:
    """The tree in a directory. Raises `MalformedError` where it is damaged, `OSError` where there is none."""
    try:
        record = json.loads((place / _TREE).read_text())
        lock = Lock.parse(record.pop("lock").encode())
        return Tree(directory=place, lock=lock, **record)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise MalformedError(f"{place} is damaged", hint="delete it; it will be made again") from None


def _stem(recipe: ImageRecipe, origin: Origin) -> str:
    """Of what an installed tree depends on besides the packages' versions."""
    asked = [*ESSENTIAL, *names(recipe, origin.distribution, origin.release), *BOOT_LOADERS]
    scripts = [base_tree.SCRIPT.read_text(), base_tree.SCRIPT.with_name("namespace.sh").read_text()]
    return _digest(
        [str(VERSION), origin.distribution, origin.release, *scripts, *asked, *local_digests(recipe)]
    )


def _locked_identities(lock: Lock) -> list[str]:
    entries = [item for group in lock.groups.values() for item in group.items()]
    return [f"{name}={version} {digest}" for name, (version, digest) in sorted(entries)]


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:16]
