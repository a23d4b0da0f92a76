"""`tdx image build`: an image from a recipe, compared with a second one, and copied."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import UsageError
from tdxstack.files import make_private, write_atomically
from tdxstack.image import built
from tdxstack.image.built import Image
from tdxstack.image.distribution import BOOT_LOADERS, ESSENTIAL
from tdxstack.image.packages import Lock, names, takes_backports
from tdxstack.image.recipe import Base, Format, ImageRecipe
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import Disk
from tdxstack.measurement.reference import Reference
from tdxstack.run import Report, silent
from tdxstack.workflows.image_base import build_on_base
from tdxstack.workflows.image_kernel import kernel_beside
from tdxstack.workflows.predict import PredictRequest, predict_machine
from tdxstack.workflows.workshop import Surroundings, Workshop


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What the user asked for."""

    recipe: ImageRecipe
    lock: Lock | None = None
    output: Path | None = None
    """Directory that the image is copied into."""
    reference: bool = False
    """Write reference values beside the copy: what `tdx up` will measure of it, on `firmware`."""
    firmware: Path | None = None
    refresh: bool = False
    verify: bool = False
    """Build twice, and compare."""
    mirror: str = ""
    require_fresh: bool = False

    def __post_init__(self) -> None:
        if self.recipe.base is not None and (self.lock or self.refresh or self.verify):
            raise UsageError(
                "--lock, --refresh and --verify are about packages, and a base image keeps its own",
                hint="leave them out",
            )
        if self.lock is not None and self.refresh:
            raise UsageError("--lock and --refresh contradict each other", hint="leave out one of them")
        if self.reference and self.output is None:
            raise UsageError("--reference is about what lies beside the copy", hint="give --output DIRECTORY")
        if self.firmware is not None and not self.reference:
            raise UsageError("--firmware is about the reference values", hint="add --reference")
        if self.reference and self.recipe.format is Format.QCOW2_ZSTD:
            raise UsageError("`tdx predict` does not read compressed disks", hint="use another --format")


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
    if request.recipe.base is None:
        image = workshop.image(request.recipe, refresh=request.refresh, lock=lock)
    else:
        cache = make_private(surroundings.directories.cache / "image")
        image = build_on_base(
            request.recipe, request.recipe.base, cache, workshop.toolbox, request.mirror, report
        )
    differences: list[str] = []
    if request.verify:
        differences = _differences(image, request, workshop, surroundings, report)
    written: list[Path] = []
    if request.output is not None and not differences:
        written = built.export(image, request.output, report)
        if request.reference:
            written.append(_write_reference(image, request, request.output, surroundings, workshop))
    return BuildResult(image, written, request.verify, differences)


def plan_build(request: BuildRequest, surroundings: Surroundings) -> list[str]:
    """What `build_image` would make of what, in words; nothing is fetched or written."""
    recipe = request.recipe
    if recipe.base is not None:
        return [f"base: {_origin(recipe.base)}", *_plan_files(request)]
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
    steps += _plan_files(request)
    steps += [f"user: {user.name}, {len(user.ssh_keys)} SSH keys" for user in recipe.users]
    steps += [f"script: {script}" for script in recipe.scripts]
    if recipe.secure_boot is not None:
        steps.append(f"signed with the keys: {recipe.secure_boot}")
    if request.lock is not None:
        steps.append("packages and time are those of the lock file")
    if request.verify:
        steps.append("built a second time from nothing, and compared")
    return steps


def _origin(base: Base) -> str:
    if base.mkosi is not None:
        return f"{base.mkosi.distribution} {base.mkosi.release}, made by mkosi"
    return str(base.image or base.url)


def _plan_files(request: BuildRequest) -> list[str]:
    steps = [f"file: {file.source or 'text'} -> /{file.target}" for file in request.recipe.files]
    if request.output is not None:
        steps.append(f"copied to {request.output} as {request.recipe.name}.*")
    if request.reference:
        steps.append("reference values of what a TD will measure, beside the copy")
    return steps


def _write_reference(
    image: Image, request: BuildRequest, directory: Path, surroundings: Surroundings, workshop: Workshop
) -> Path:
    """Predict, for machines of any size, what a TD of this image will measure."""
    direct = kernel_beside(image)
    spec = MachineSpec(firmware=request.firmware, image=Disk(path=image.path), direct_kernel=direct)
    prediction = predict_machine(PredictRequest(spec=spec), surroundings, workshop).prediction
    path = directory / f"{image.name}.reference.json"
    write_atomically(path, Reference.of(prediction, image.name, portable=True).to_json())
    return path


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
    with built.second_cache(make_private(surroundings.directories.cache / "image"), report) as cache:
        builder = workshop.builder(request.recipe, cache)
        second = builder.build(request.recipe, workshop.origin(request.recipe), lock=lock)
        return sorted(
            name
            for name in image.files.keys() | second.files.keys()
            if image.files.get(name) != second.files.get(name)
        )
