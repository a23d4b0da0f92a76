"""Images that are here: which there are, which machines they are the disks of, and how to be rid of one."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from tdxstack import files
from tdxstack.errors import MalformedError, UsageError
from tdxstack.files import Directories
from tdxstack.image import built as image_built
from tdxstack.image.built import Image
from tdxstack.machine.store import MachineStore
from tdxstack.prediction.qcow2 import MAX_CHAIN, backing_file
from tdxstack.workflows.image_kernel import kernel_beside


@dataclass(frozen=True, slots=True)
class Listed:
    """A built image, the bytes that its disk takes, when it was made, and the machines that read from it."""

    image: Image
    size: int
    built: datetime
    machines: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The image's own record and the rest by name."""
        own = asdict(self.image) | {"path": str(self.image.path)}
        return own | {"size": self.size, "built": self.built.isoformat(), "machines": list(self.machines)}


def images(directories: Directories) -> list[Listed]:
    """The built images, newest last."""
    disks = {name: set(_chain(disk)) for name, disk in _machine_disks(directories)}
    found = []
    for image in image_built.cached(_cache(directories)):
        status = image.path.stat()
        users = tuple(name for name, chain in disks.items() if image.path.resolve() in chain)
        built = datetime.fromtimestamp(status.st_mtime, UTC)
        found.append(Listed(image, status.st_blocks * 512, built, users))
    return found


def users(directories: Directories, path: Path) -> list[str]:
    """The machines, running or not, whose disk is `path` or an overlay of it."""
    wanted = path.resolve()
    return [name for name, disk in _machine_disks(directories) if wanted in _chain(disk)]


def find_image(directories: Directories, key: str) -> Listed:
    """The newest image of the name `key`, else the one whose key starts with it.

    Raises `UsageError` where there is none, or more than one with such a key.
    """
    every = images(directories)
    for one in reversed(every):
        if one.image.name == key:
            return one
    found = [one for one in every if key and one.image.key.startswith(key)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{one.image.name} ({one.image.key})" for one in every)
    known = known or "none; `tdx image build` builds one"
    number = f"{len(found)} images have keys that start with" if found else "there is no image"
    raise UsageError(f"{number} {key[:80]!r}", hint=f"images here: {known}")


def image_file(directories: Directories, name: str) -> Path:
    """The disk image that is called `name`: a file if it looks like one, else the built image, else a file.

    Raises `UsageError` where there is none; whether there is a file that looks like one is not asked.
    """
    path = Path(name)
    if "/" in name or path.suffix:
        return path
    try:
        return find_image(directories, name).image.path
    except UsageError:
        if path.is_file():
            return path
        raise


def image_fields(directories: Directories, name: str) -> dict[str, object]:
    """What has a machine's specification boot the image that is called `name`, by field.

    Raises as `image_file` does.
    """
    path = image_file(directories, name).absolute()
    fields: dict[str, object] = {"image": str(path)}
    with contextlib.suppress(MalformedError):
        image = image_built.load(path.parent)
        kernel = kernel_beside(image) if image.path == path else None
        if kernel is not None:
            said = kernel.model_dump(mode="json", exclude_unset=True)
            fields |= {f"direct_kernel.{name}": value for name, value in said.items()}
    return fields


def remove_image(directories: Directories, one: Listed) -> None:
    """Delete an image with all that lies beside it. Raises `UsageError` where a machine reads from it."""
    cache = _cache(directories)
    with files.lock(cache / "lock"):
        if names := users(directories, one.image.path):
            raise UsageError(
                f"image {one.image.key} is in use by {', '.join(names)}", hint=f"run: tdx down {names[0]}"
            )
        # Under a name that the next build removes, should this one be interrupted.
        gone = cache / f"work.{one.image.key}"
        one.image.path.parent.rename(gone)
        shutil.rmtree(gone)


def _machine_disks(directories: Directories) -> Iterator[tuple[str, Path]]:
    store = MachineStore(directories)
    for name in store.names():
        disk = store.files(name).disk
        if disk.exists():
            yield name, disk


def _chain(disk: Path) -> list[Path]:
    """A disk and the images that it is an overlay of."""
    chain: list[Path] = []
    below: Path | None = disk
    while below is not None and len(chain) < MAX_CHAIN and below.exists():
        chain.append(below.resolve())
        below = backing_file(below)
    return chain


def _cache(directories: Directories) -> Path:
    return directories.cache / "image"
