"""Finds firmware through the descriptors of the host, or of a private root."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tdxstack.abi.tdvf import parse_image
from tdxstack.errors import MalformedError, UnavailableError, about
from tdxstack.firmware.descriptor import Descriptor

INTEL_TDX = "intel-tdx"
MACHINE = "pc-q35-10.1"
"""TDs run on q35; descriptors name machine types by patterns such as pc-q35-*, so that one version does."""

SYSTEM_DIRECTORIES = (Path("/etc/qemu/firmware"), Path("/usr/share/qemu/firmware"))
MAX_IMAGE = 64 << 20


@dataclass(frozen=True, slots=True)
class Firmware:
    """A firmware image that a TD can start with.

    `features` are the descriptor's, such as `intel-tdx`, `secure-boot`, `enrolled-keys`; an image that
    was named by the user has no descriptor and no known features. `version` is that of the package it
    was fetched in, None for what the host has.
    """

    path: Path
    descriptor: Path | None
    description: str
    features: frozenset[str]
    sha256: str
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """What was found, the first choice first, and what is wrong with descriptors that were passed over."""

    found: tuple[Firmware, ...]
    problems: tuple[str, ...]

    def first(self) -> Firmware:
        """The first choice. Raises `UnavailableError` where there is none."""
        if self.found:
            return self.found[0]
        problems = f" ({'; '.join(self.problems)})" if self.problems else ""
        raise UnavailableError(
            f"no firmware descriptor offers an image for TDs{problems}",
            hint="install the distribution's TDVF (Debian: ovmf-inteltdx), or name an image with --firmware",
        )


def directories(environ: Mapping[str, str], home: Path) -> tuple[Path, ...]:
    """Where the host's descriptors are, the most specific directory first."""
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    return (config / "qemu/firmware", *SYSTEM_DIRECTORIES)


def open_image(path: Path) -> Firmware:
    """A firmware image for TDs that the user names.

    Raises `UnavailableError` where it cannot be read, and `MalformedError` where it cannot start a TD.
    """
    data = read_image(path)
    with about(f"firmware {path}"):
        parse_image(data)
    return Firmware(path, None, path.name, frozenset(), hashlib.sha256(data).hexdigest())


def read_image(path: Path) -> bytes:
    """A firmware file that the user names. Raises `UnavailableError` where it cannot be read."""
    try:
        return _read_image(path)
    except OSError as error:
        raise UnavailableError(
            f"firmware {path} cannot be read: {error.strerror}", hint="name a TDVF image"
        ) from None


def find(places: Sequence[Path], *, features: Sequence[str] = (INTEL_TDX,), root: Path = Path("/")) -> Search:
    """Firmware with all of `features` that loads into the memory of a q35 machine.

    `places` are directories of descriptors, the most specific first: of files with one name the
    first counts, and if it is empty it hides the others. Files are taken in the order of their names.
    With a `root` other than "/", the descriptors belong to a private tree: their paths are taken
    below it and must stay there. Broken descriptors and images are skipped and reported.
    """
    found, problems = [], []
    for path in _descriptors(places):
        try:
            firmware = _load(path, frozenset(features), root)
        except (OSError, MalformedError) as error:
            problems.append(f"{path}: {error.strerror if isinstance(error, OSError) else error}")
            continue
        if firmware is not None:
            found.append(firmware)
    return Search(tuple(found), tuple(problems))


def _descriptors(places: Sequence[Path]) -> Iterator[Path]:
    """The descriptors that are in effect, in order."""
    by_name: dict[str, Path] = {}
    for place in places:
        for path in place.glob("*.json"):
            by_name.setdefault(path.name, path)
    for _, path in sorted(by_name.items()):
        if not path.is_file() or path.stat().st_size:
            yield path


def _load(path: Path, features: frozenset[str], root: Path) -> Firmware | None:
    """The firmware of one descriptor, None where it is for something else."""
    descriptor = Descriptor.parse(path.read_bytes())
    if not features <= descriptor.features or not descriptor.runs_on(MACHINE) or descriptor.filename is None:
        return None
    image = _within(root, descriptor.filename)
    if not image.is_file():
        raise MalformedError(f"its image {image} does not exist", hint="install the firmware package again")
    data = _read_image(image)
    if INTEL_TDX in descriptor.features:
        try:
            parse_image(data)
        except MalformedError as error:
            raise MalformedError(f"its image {image} cannot start a TD: {error}", hint=error.hint) from None
    return Firmware(
        path=image,
        descriptor=path,
        description=descriptor.description,
        features=descriptor.features,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _read_image(path: Path) -> bytes:
    if (size := path.stat().st_size) > MAX_IMAGE:
        raise MalformedError(f"firmware {path} has {size} bytes", hint="a firmware has a few MiB")
    return path.read_bytes()


def _within(root: Path, filename: str) -> Path:
    """The file of an absolute name, below `root`."""
    if not filename.startswith("/"):
        raise MalformedError(f"its image {filename!r} is no absolute path", hint="repair the descriptor")
    path = root / filename.lstrip("/")
    if not path.resolve().is_relative_to(root.resolve()):
        raise MalformedError(f"its image {filename!r} lies outside {root}", hint="repair the descriptor")
    return path
