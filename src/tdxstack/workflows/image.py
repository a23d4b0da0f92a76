"""`tdx image build`: an image from a recipe, compared with a second one, and copied."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import UsageError
from tdxstack.files import make_private
from tdxstack.image import built
from tdxstack.image.built import Image
from tdxstack.image.distribution import BOOT_LOADERS, ESSENTIAL
from tdxstack.image.packages import Lock, names, takes_backports
from tdxstack.image.recipe import ImageRecipe
from tdxstack.run import Report, silent
from tdxstack.workflows.workshop import Surroundings, Workshop


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What the user asked for."""

    recipe: ImageRecipe
    lock: Lock | None = None
    output: Path | None = None
    """Directory that the image is copied into."""
    refresh: bool = False
    verify: bool = False
    """Build twice, and compare."""
    mirror: str = ""
    require_fresh: bool = False

    def __post_init__(self) -> None:
        if self.lock is not None and self.refresh:
            raise UsageError("--lock and --refresh contradict each other", hint="leave out one of them")


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What came of it."""

    image: Image
    written: list[Path]
    compared: bool
    differences: list[str]
    """Names of the files that were not the same the second time."""


def build_image(request: BuildRequest, surroundings: Surroundings, report: Report = silent) -> BuildResult:
    """Build, compare and copy, as asked for. Raises what the parts raise."""
    workshop = _workshop(request, surroundings, report)
    lock = _checked_lock(request, workshop)
    image = workshop.image(request.recipe, refresh=request.refresh, lock=lock)
    differences: list[str] = []
    if request.verify:
        differences = _differences(image, request, workshop, surroundings, report)
    written = built.export(image, request.output, report) if request.output and not differences else []
    return BuildResult(image, written, request.verify, differences)


def plan_build(request: BuildRequest, surroundings: Surroundings) -> list[str]:
    """What `build_image` would make of what, in words; nothing is fetched or written."""
    recipe = request.recipe
    workshop = _workshop(request, surroundings, silent)
    _checked_lock(request, workshop)
    origin = workshop.origin(recipe)
    packages = names(recipe, origin.distribution, origin.release)
    backports = takes_backports(recipe, origin.distribution, origin.release)
    steps = [
        f"distribution: {origin.distribution} {origin.release}{' and its backports' if backports else ''}",
        f"packages: {len(ESSENTIAL)} essential ones, {', '.join(packages)}, and all that they depend on",
        f"boot loaders: {', '.join(BOOT_LOADERS)}",
        f"boot: {recipe.boot}, root: {recipe.root}, format: {recipe.format}",
    ]
    steps += [f"file: {file.source or 'text'} -> /{file.target}" for file in recipe.files]
    steps += [f"user: {user.name}, {len(user.ssh_keys)} SSH keys" for user in recipe.users]
    steps += [f"script: {script}" for script in recipe.scripts]
    if recipe.secure_boot is not None:
        steps.append(f"signed with the keys: {recipe.secure_boot}")
    if request.lock is not None:
        steps.append("packages and time are those of the lock file")
    if request.verify:
        steps.append("built a second time from nothing, and compared")
    if request.output is not None:
        steps.append(f"copied to {request.output} as {recipe.name}.*")
    return steps


def _workshop(request: BuildRequest, surroundings: Surroundings, report: Report) -> Workshop:
    return Workshop(surroundings, mirror=request.mirror, require_fresh=request.require_fresh, report=report)


def _checked_lock(request: BuildRequest, workshop: Workshop) -> Lock | None:
    lock = request.lock
    if lock is not None:
        origin = workshop.origin(request.recipe)
        if (lock.distribution, lock.release) != (origin.distribution, origin.release):
            raise UsageError(
                f"the lock file is of {lock.distribution} {lock.release}, "
                f"the recipe of {origin.distribution} {origin.release}",
                hint="use the lock file that belongs to the recipe",
            )
    return lock


def _differences(
    image: Image, request: BuildRequest, workshop: Workshop, surroundings: Surroundings, report: Report
) -> list[str]:
    """Build the packages of `image` again in a cache of its own, which is gone afterwards, and compare."""
    report("building a second time", None)
    lock = Lock.parse(image.path.with_name(built.LOCK).read_bytes())
    parent = make_private(surroundings.directories.cache / "image")
    again = Path(tempfile.mkdtemp(prefix="verify.", dir=parent))
    try:
        builder = workshop.builder(request.recipe, again)
        second = builder.build(request.recipe, workshop.origin(request.recipe), lock=lock)
        return sorted(
            name
            for name in image.files.keys() | second.files.keys()
            if image.files.get(name) != second.files.get(name)
        )
    finally:
        shutil.rmtree(again, ignore_errors=True)
