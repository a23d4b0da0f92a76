"""Which packages an image consists of, fetched; and the lock file that names every one of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tdxstack.errors import MalformedError, UnavailableError, UsageError
from tdxstack.image.distribution import (
    BOOT_LOADERS,
    DISTRIBUTIONS,
    ESSENTIAL,
    SYSTEM,
    VERITY_PACKAGES,
)
from tdxstack.image.recipe import ImageRecipe
from tdxstack.run import Report, run, silent
from tdxstack.toolbox.apt import AptRoot, Deb
from tdxstack.toolbox.archive import RELEASES

LOCK_VERSION = 1
MAX_LOCK_SIZE = 4 << 20

_BACKPORT = "~bpo"
_QUERY_SECONDS = 60.0
_HINT = "use a lock file as `tdx image build` writes it"


@dataclass(frozen=True, slots=True)
class Selection:
    """The package files of an image."""

    essential: tuple[Deb, ...]
    """Those that every other's installation may rely on, with what they depend on."""
    others: tuple[Deb, ...]
    loaders: tuple[Deb, ...]
    """Whose EFI programs are used; not installed."""

    @property
    def all(self) -> list[Deb]:
        """Everything that goes into an image, by name."""
        return sorted([*self.essential, *self.others, *self.loaders], key=lambda deb: deb.name)

    def identities(self) -> list[str]:
        """What tells this selection from every other."""
        return [f"{deb.name}={deb.version} {deb.sha256}" for deb in self.all]


@dataclass(frozen=True, slots=True)
class Lock:
    """What makes the same image again: where its packages are from, each with its SHA-256, and the time."""

    distribution: str
    release: str
    epoch: int
    groups: Mapping[str, Mapping[str, tuple[str, str]]]
    """For `essential`, `others` and `loaders`: version and SHA-256 in hex, by the package's name."""

    @classmethod
    def of(cls, selection: Selection, distribution: str, release: str, epoch: int) -> Lock:
        """The lock of what has been selected."""
        groups = {
            name: {deb.name: (deb.version, deb.sha256) for deb in debs}
            for name, debs in _groups(selection).items()
        }
        return cls(distribution, release, epoch, groups)

    @classmethod
    def parse(cls, text: bytes) -> Lock:
        """Read a lock file. Raises `MalformedError` for anything else."""
        try:
            document = json.loads(text[: MAX_LOCK_SIZE + 1])
            version, epoch = document["version"], document["source_date_epoch"]
            groups = {name: _entries(document[name]) for name in ("essential", "others", "loaders")}
            distribution, release = str(document["distribution"]), str(document["release"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            what = f"{type(error).__name__}: {str(error)[:80]}"
            raise MalformedError(f"lock file: {what}", hint=_HINT) from None
        if version != LOCK_VERSION:
            raise MalformedError(f"lock file: version {str(version)[:20]!r} is unknown", hint=_HINT)
        if not isinstance(epoch, int) or not 0 <= epoch < 1 << 33:
            raise MalformedError(f"lock file: {str(epoch)[:20]!r} is no time", hint=_HINT)
        return cls(distribution, release, epoch, groups)

    def to_json(self) -> bytes:
        """The lock file; the same lock gives the same bytes."""
        document: dict[str, object] = {
            "version": LOCK_VERSION,
            "distribution": self.distribution,
            "release": self.release,
            "source_date_epoch": self.epoch,
        }
        for group, entries in self.groups.items():
            document[group] = {
                name: {"version": version, "sha256": digest}
                for name, (version, digest) in sorted(entries.items())
            }
        return json.dumps(document, indent=1).encode() + b"\n"


def names(recipe: ImageRecipe, distribution: str, release: str) -> list[str]:
    """What is asked of apt for `recipe`, besides the essential packages and the boot loaders."""
    wanted = [*SYSTEM, *_kernel(recipe, distribution, release), *recipe.packages]
    if recipe.root.verified:
        wanted += VERITY_PACKAGES
    if recipe.cloud_init is not None:
        wanted.append("cloud-init")
    if recipe.guest_agent:
        wanted.append("qemu-guest-agent")
    if any(user.sudo for user in recipe.users):
        wanted.append("sudo")
    return list(dict.fromkeys(wanted))


def takes_backports(recipe: ImageRecipe, distribution: str, release: str) -> bool:
    """Whether something of `recipe` comes from the backports suite."""
    kernel = recipe.kernel
    if kernel.version is not None:
        return _BACKPORT in kernel.version
    newest = kernel.origin == "default" and not kernel.debs and release == RELEASES[distribution]
    return (kernel.origin == "backports" or newest) and bool(DISTRIBUTIONS[distribution].backported_kernel)


def select(recipe: ImageRecipe, apt: AptRoot, report: Report = silent) -> Selection:
    """Download everything that `recipe` consists of, as the archive has it now.

    Raises `UnavailableError`, and `UsageError` for a local package that cannot be used.
    """
    archive = apt.archive
    kernels = [_local(path) for path in recipe.kernel.debs]
    wanted = names(recipe, archive.distribution, archive.release_name)
    everything = {deb.name: deb for deb in apt.fetch([*ESSENTIAL, *wanted], report=report)}
    everything |= {deb.name: deb for deb in kernels}
    essential = {deb.name for deb in apt.fetch(ESSENTIAL, report=report)}
    debs = [everything[name] for name in sorted(everything)]
    return Selection(
        tuple(deb for deb in debs if deb.name in essential),
        tuple(deb for deb in debs if deb.name not in essential),
        tuple(apt.fetch(BOOT_LOADERS, with_dependencies=False, report=report)),
    )


def select_locked(recipe: ImageRecipe, lock: Lock, apt: AptRoot, report: Report = silent) -> Selection:
    """Download exactly what `lock` names.

    Raises `UnavailableError` where the archive has a package no more, or has another under that version;
    `UsageError` where the recipe asks for a package that the lock has not.
    """
    known = {name for group in lock.groups.values() for name in group}
    asked = {_bare_name(name) for name in names(recipe, lock.distribution, lock.release)}
    if asked - known:
        raise UsageError(
            f"the lock file does not have {', '.join(sorted(asked - known))}",
            hint="leave out --lock to make a new one",
        )
    local = {deb.name: deb for deb in map(_local, recipe.kernel.debs)}
    groups = {}
    for group, entries in lock.groups.items():
        remote = [f"{name}={version}" for name, (version, _) in entries.items() if name not in local]
        debs = apt.fetch(remote, with_dependencies=False, report=report) if remote else []
        debs = sorted([*debs, *(local[name] for name in entries if name in local)], key=lambda deb: deb.name)
        for deb in debs:
            locked = entries[deb.name][1]
            if deb.sha256 != locked:
                raise UnavailableError(
                    f"{deb.name} {deb.version} has SHA-256 {deb.sha256}, not {locked} as locked",
                    hint="use the mirror that the lock file was made with, or leave out --lock",
                )
        groups[group] = tuple(debs)
    return Selection(**groups)


def _bare_name(package: str) -> str:
    """The name in `name=version` or `name/suite`."""
    return package.partition("=")[0].partition("/")[0]


def local_digests(recipe: ImageRecipe) -> list[str]:
    """SHA-256 in hex of the local package files of `recipe`."""
    return [_sha256(path) for path in recipe.kernel.debs]


def _kernel(recipe: ImageRecipe, distribution: str, release: str) -> Sequence[str]:
    kernel, known = recipe.kernel, DISTRIBUTIONS[distribution]
    if kernel.debs:
        return ("kmod", "linux-base")
    if takes_backports(recipe, distribution, release):
        suite = f"{release}-backports"
        if kernel.version is None:
            return [f"{package}/{suite}" for package in known.backported_kernel]
        # apt takes what a package of a suite depends on from there, too, but not that of one by its version
        return [
            *(f"{package}={kernel.version}" for package in known.backported_kernel),
            f"linux-base/{suite}",
        ]
    if kernel.origin == "backports":
        raise UsageError(f"{distribution} has no backported kernel", hint="leave out kernel: backports")
    return [f"{package}={kernel.version}" if kernel.version else package for package in known.kernel]


def _local(path: Path) -> Deb:
    done = run(
        ["dpkg-deb", "--show", "--showformat=${Package}\\t${Version}", path],
        timeout=_QUERY_SECONDS,
        check=False,
    )
    fields = done.stdout.decode(errors="replace").split("\t")
    if done.returncode or len(fields) != 2:
        raise UsageError(f"{path} is no Debian package", hint="give .deb files")
    return Deb(fields[0], fields[1], path, _sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _groups(selection: Selection) -> dict[str, tuple[Deb, ...]]:
    return {
        "essential": selection.essential,
        "others": selection.others,
        "loaders": selection.loaders,
    }


def _entries(group: Any) -> dict[str, tuple[str, str]]:
    return {str(name): (str(entry["version"]), str(entry["sha256"])) for name, entry in group.items()}
