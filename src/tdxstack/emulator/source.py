"""Where QEMU's source comes from: the archive's source package, a pinned release, or a file of the user's."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from tdxstack import files
from tdxstack.errors import UnavailableError, UsageError
from tdxstack.run import Report, silent
from tdxstack.toolbox.apt import AptRoot

_NAME = re.compile(
    r"qemu[_-](?P<version>\d+\.\d+\.\d+(?:-?rc\d+)?)(?:\+ds\d*)?(?:\.orig)?\.tar\.(?:xz|bz2|gz|zst)"
)
_POOL = "pool/main/q/qemu"

PINNED = {
    "10.0.13": (
        "qemu_10.0.13+ds.orig.tar.xz",
        "6a0888e806c2ffc0c5f0733e974f9aea55491950d3c47c98669c8b236dde59ae",
    ),
    "10.2.1": (
        "qemu_10.2.1+ds.orig.tar.xz",
        "4f495c2a523f78f50cc83327cabf01e7e89c6b9a5d3d6cadd9e78de94b25c416",
    ),
    "10.2.2": (
        "qemu_10.2.2+ds.orig.tar.xz",
        "be05230fe47a6937cd29f28f562932c8125f9c93c2a82c625198f7a4aa601dfb",
    ),
}
"""Releases that may be asked for by version: the tarball's name in the archive's pool, and its SHA-256."""


@dataclass(frozen=True, slots=True)
class Source:
    """A tarball of QEMU's source whose hash is known."""

    path: Path
    version: str
    """Upstream's version as the file's name has it; empty if it has none."""
    sha256: str
    origin: str
    """Where it came from, for people: the suite, the pin, or the file."""


def archive_source(apt: AptRoot, report: Report = silent) -> Source:
    """The tarball of the archive's source package `qemu`, vouched for by the archive's signature.

    `apt` must have been made with `source_packages` and be up to date. Raises `UnavailableError`.
    """
    for file in apt.fetch_source("qemu", report=report):
        match = _NAME.fullmatch(file.name)
        if match:
            return Source(file.path, match["version"], file.sha256, f"source package of {apt.suites[0]}")
    raise UnavailableError(
        "the archive's source package qemu has no upstream tarball", hint="use --source FILE"
    )


def pinned_source(version: str, apt: AptRoot, directory: Path, report: Report = silent) -> Source:
    """The tarball of a release in `PINNED`, from the archive's pool or from `directory`, where it is kept.

    Raises `UsageError` for a version without a pin, `UnavailableError` where the archive no longer has it.
    """
    if version not in PINNED:
        raise UsageError(
            f"QEMU {version} is not one of the pinned releases: {', '.join(sorted(PINNED))}",
            hint="use --source FILE for a tarball of your own",
        )
    name, sha256 = PINNED[version]
    path = files.make_private(directory) / name
    if not path.is_file() or file_sha256(path) != sha256:
        try:
            apt.fetch_file(f"{_POOL}/{name}", sha256, path, report=report)
        except UnavailableError as error:
            raise UnavailableError(
                f"QEMU {version} could not be had from the archive: {error.message}",
                hint="use --source FILE with the release tarball, or build the archive's own version",
            ) from error
    return Source(path, version, sha256, f"pinned release {version}")


def local_source(path: Path) -> Source:
    """The tarball `path` of the user's own. Raises `UnavailableError` if it cannot be read."""
    match = _NAME.fullmatch(path.name)
    try:
        sha256 = file_sha256(path)
    except OSError as error:
        raise UnavailableError(
            f"{path} cannot be read: {error.strerror}", hint="name a tarball of QEMU"
        ) from None
    return Source(path.absolute(), match["version"] if match else "", sha256, f"file {path.name}")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
