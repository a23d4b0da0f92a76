"""What `tdx up` would do, without doing any of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from tdxstack.emulator.locate import locate
from tdxstack.emulator.recipe import Recipe
from tdxstack.firmware.fetch import PACKAGE, cached
from tdxstack.firmware.find import find
from tdxstack.image import built
from tdxstack.image.built import Image
from tdxstack.image.recipe import ImageRecipe
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import Kind
from tdxstack.machine.store import MachineStore
from tdxstack.platform import choose_platform
from tdxstack.quoting.service import Service
from tdxstack.toolbox import host_packages
from tdxstack.toolbox.archive import host_archive
from tdxstack.toolbox.programs import Program
from tdxstack.workflows.images import find_image
from tdxstack.workflows.up import UpRequest
from tdxstack.workflows.workshop import Surroundings, Workshop


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do, and whether it still needs doing."""

    what: str
    needed: bool
    text: str

    def to_json(self) -> dict[str, object]:
        """The three fields by name."""
        return asdict(self)


def plan_up(request: UpRequest, surroundings: Surroundings) -> list[Step]:
    """Every step of `bring_up`, in order; raises as it would for what is refused before anything is done."""
    choice = choose_platform(surroundings.host, request.platform)
    request.refuse_contradictions(choice.platform)
    return [
        Step("platform", False, f"platform: {choice.platform.value} ({choice.reason})"),
        *_parts(request, surroundings, emulator=choice.emulated),
        _trust(surroundings) if choice.emulated else _collateral(request),
        _machine(request, surroundings),
    ]


def plan_machine(spec: MachineSpec, surroundings: Surroundings) -> list[Step]:
    """What is found, fetched or built before a machine of `spec` can be made.

    Raises `UnavailableError` for a TD where its platform is not there.
    """
    if spec.kind is Kind.TD:
        emulator = choose_platform(surroundings.host, spec.platform).emulated
    else:
        emulator = Workshop(surroundings).installed_qemu() is None
    return _parts(
        UpRequest(firmware=spec.firmware),
        surroundings,
        emulator=emulator,
        firmware=spec.kind is not Kind.LEGACY,
        image=spec.image is None and not spec.diskless,
        tpm=spec.tpm,
    )


def _parts(
    request: UpRequest,
    surroundings: Surroundings,
    *,
    emulator: bool,
    firmware: bool = True,
    image: bool = True,
    tpm: bool = False,
) -> list[Step]:
    """What a machine is made of, and its own image where that is asked for."""
    return [
        *_packages(emulator),
        _archive(request),
        *_programs(surroundings, image=image, tpm=tpm),
        *([_emulator(request, surroundings)] if emulator else []),
        *([_firmware(request, surroundings)] if firmware else []),
        *([_image(request, surroundings)] if image else []),
    ]


def _packages(emulator: bool) -> list[Step]:
    purposes = ["emulator", "image"] if emulator else ["image"]
    absent = host_packages.missing(host_packages.needed(purposes))
    if not absent:
        return [Step("host packages", False, "host packages: all installed")]
    commands = [" ".join(command) for command in host_packages.install_commands(absent)]
    return [Step("host packages", True, f"run: {command}") for command in commands]


def _archive(request: UpRequest) -> Step:
    archive = host_archive(Path("/"), mirror=request.mirror)
    return Step(
        "archive", False, f"package archive: {archive.distribution} {archive.codename} at {archive.main.uri}"
    )


def _programs(surroundings: Surroundings, *, image: bool, tpm: bool) -> list[Step]:
    """The programs that a start runs, and, while there is no image and one is wanted, those that make one."""
    programs = Workshop(surroundings).toolbox.status()
    if not image or _images(surroundings):
        run = {"qemu-img", "ssh", "ssh-keygen", *(["swtpm"] if tpm else [])}
        programs = [program for program in programs if program.name in run]
    return [
        Step("program", program.origin == "absent", f"program {program.name}: {_origin(program)}")
        for program in programs
    ]


def _origin(program: Program) -> str:
    return "download from the archive" if program.origin == "absent" else program.origin


def _emulator(request: UpRequest, surroundings: Surroundings) -> Step:
    current = locate(surroundings.directories.cache)
    if current and not request.emulator_version and not request.emulator_source:
        return Step("emulator", False, f"emulator: QEMU {current.version}, key {current.key}")
    origin = request.emulator_source or request.emulator_version or "the archive's source package"
    return Step(
        "emulator", True, f"emulator: build QEMU of {origin} with {len(Recipe.load().patches)} patches"
    )


def _firmware(request: UpRequest, surroundings: Surroundings) -> Step:
    if request.firmware:
        return Step("firmware", False, f"firmware: {request.firmware}")
    found = find(surroundings.firmware_places).found
    if found:
        return Step("firmware", False, f"firmware: {found[0].path}")
    here = cached(surroundings.directories.cache / "firmware")
    if here:
        return Step("firmware", False, f"firmware: {PACKAGE} {here.version}")
    return Step("firmware", True, f"firmware: download {PACKAGE} from the archive")


def _images(surroundings: Surroundings) -> list[Image]:
    """Those of the recipe that machines start from, newest last."""
    images = built.cached(surroundings.directories.cache / "image")
    return [image for image in images if image.name == ImageRecipe().name]


def _image(request: UpRequest, surroundings: Surroundings) -> Step:
    if request.image:
        image = find_image(surroundings.directories, request.image).image
        return Step("image", False, f"guest image: {image.name}, key {image.key}")
    images = _images(surroundings)
    if images:
        return Step("image", False, f"guest image: {images[-1].key}, kernel {images[-1].kernel_version}")
    return Step("image", True, "guest image: download packages and build it")


def _trust(surroundings: Surroundings) -> Step:
    place = surroundings.directories.data / "pki"
    socket = Service.of_user(surroundings.directories.runtime).socket
    return Step("trust", not place.exists(), f"emulated root of trust in {place}, QGS on {socket}")


def _collateral(request: UpRequest) -> Step:
    client = request.collateral_client
    if client is not None:
        origin = client.service.origin
        return Step("collateral", True, f"collateral: fetch from {origin} for the platform of the quote")
    return Step("collateral", False, f"collateral: {request.collateral}")


def _machine(request: UpRequest, surroundings: Surroundings) -> Step:
    files = MachineStore(surroundings.directories).files(request.name)
    return Step(
        "machine",
        True,
        f"start machine {request.name}: {request.vcpus} vCPUs, {request.memory_mib} MiB; {files.directory}",
    )
