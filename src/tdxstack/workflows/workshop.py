"""The parts that a machine is made of, each found where it is or fetched and built once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from tdxstack.emulator import build as emulator_build
from tdxstack.emulator import source as emulator_source
from tdxstack.emulator.locate import Emulator, locate
from tdxstack.emulator.source import Source
from tdxstack.errors import UnavailableError
from tdxstack.files import Directories, make_private
from tdxstack.firmware.fetch import cached, fetch
from tdxstack.firmware.find import Firmware, find, open_image
from tdxstack.firmware.keys import OwnKeys, open_own_keys
from tdxstack.host_access import Kvm
from tdxstack.image.build import Builder
from tdxstack.image.built import Image
from tdxstack.image.distribution import DISTRIBUTIONS
from tdxstack.image.packages import Lock, takes_backports
from tdxstack.image.recipe import ImageRecipe
from tdxstack.image.trees import Origin
from tdxstack.qemu.abilities import Abilities, ask
from tdxstack.run import Report, run, silent
from tdxstack.toolbox.apt import AptRoot
from tdxstack.toolbox.archive import RELEASES, Archive, archive_of, host_archive, os_release
from tdxstack.toolbox.programs import Toolbox
from tdxstack.toolbox.release import Release

LISTS_AGE = timedelta(hours=24)
KEYGEN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where tdxstack runs: everything that it would otherwise have to ask the environment for."""

    directories: Directories
    host: Kvm
    uid: int
    search_path: str
    """PATH for the host's own programs."""
    firmware_places: tuple[Path, ...]
    """Directories of QEMU firmware descriptors, the most specific first."""
    clock: Callable[[], datetime]


class DiskImage(Protocol):
    """A disk image that others can be made from."""

    @property
    def path(self) -> Path: ...

    @property
    def format(self) -> str: ...


class Workshop:
    """Fetches and builds parts into the user's cache, from the host's archive or from `mirror`.

    Every part is made at most once; later calls find it. `releases` remembers how old the package
    lists were that anything was taken from.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        *,
        mirror: str = "",
        require_fresh: bool = False,
        report: Report = silent,
    ) -> None:
        self._surroundings = surroundings
        self._cache = surroundings.directories.cache
        self._mirror = mirror
        self._require_fresh = require_fresh
        self._report = report
        self.releases: dict[str, Release] = {}
        self._abilities: dict[tuple[str, ...], Abilities] = {}
        self.toolbox = Toolbox(
            self._cache / "toolbox",
            lambda: self.apt(lambda archive: archive.stable),
            search_path=surroundings.search_path,
        )

    def program(self, name: str) -> list[str]:
        """The argument vector with which a program of the host's begins; fetched where the host lacks it."""
        return self.toolbox.program(name, self._report).argv()

    def apt(self, suites: Callable[[Archive], tuple[str, ...]], *, source_packages: bool = False) -> AptRoot:
        """The private apt root of some suites of the host's archive, with lists of today."""
        archive = host_archive(Path("/"), mirror=self._mirror)
        return self._apt_of(archive, suites(archive), source_packages=source_packages)

    def _apt_of(self, archive: Archive, wanted: tuple[str, ...], *, source_packages: bool = False) -> AptRoot:
        name = "-".join(wanted) + ("-src" if source_packages else "")
        root = AptRoot(
            self._cache / "apt" / name,
            archive,
            wanted,
            now=self._surroundings.clock(),
            require_fresh=self._require_fresh,
            source_packages=source_packages,
        )
        for release in root.update(self._report, max_age=LISTS_AGE):
            self.releases[release.suite] = release
        return root

    def emulator(self, version: str = "", source: Path | None = None) -> Emulator:
        """The emulating QEMU: of `source` or of a pinned `version` if given, else the one in use.

        Where none is in use, the archive's own version is built.
        """
        current = locate(self._cache) if not version and source is None else None
        return current or self.build_emulator(version, source)

    def build_emulator(self, version: str = "", source: Path | None = None) -> Emulator:
        """Build the emulator of `source`, a pinned `version`, or else the archive's, unless that is done.

        It is the one in use from then on.
        """
        return emulator_build.build(
            self._cache,
            self._source(version, source),
            self.toolbox,
            now=self._surroundings.clock(),
            report=self._report,
        )

    def firmware(self, path: Path | None = None) -> Firmware:
        """TDVF: the file `path`, else what the host's descriptors offer, else the distribution's, fetched."""
        if path is not None:
            return open_image(path)
        cache = make_private(self._cache / "firmware")
        return self.firmware_here() or fetch(
            self.apt(lambda archive: archive.unstable), cache, report=self._report
        )

    def firmware_here(self) -> Firmware | None:
        """TDVF that the host's descriptors offer, or that was fetched before; None without any."""
        found = find(self._surroundings.firmware_places).found
        return found[0] if found else cached(self._cache / "firmware")

    def abilities(self, qemu: tuple[str, ...]) -> Abilities:
        """What a QEMU can do, asked once."""
        if qemu not in self._abilities:
            self._abilities[qemu] = ask(qemu)
        return self._abilities[qemu]

    def host_qemu(self) -> str:
        """The host's QEMU, if it can start TDs on KVM; `UnavailableError` where it is missing or cannot."""
        program = self.installed_qemu()
        if program is None:
            raise UnavailableError("qemu-system-x86_64 was not found", hint="install QEMU 10.1 or newer")
        found = self.abilities((program,))
        if "tdx-guest" not in found.td_objects:
            raise UnavailableError(
                f"{program} {found.version} has no tdx-guest object",
                hint="install QEMU 10.1 or newer with TDX",
            )
        return program

    def ordinary_qemu(self) -> tuple[str, ...]:
        """The QEMU for machines that are no TDs: the host's, else the emulating one."""
        program = self.installed_qemu()
        return (program,) if program else tuple(self.emulator().argv_prefix)

    def installed_qemu(self) -> str | None:
        """The host's QEMU, whatever it can; None without one."""
        return shutil.which("qemu-system-x86_64", path=self._surroundings.search_path)

    def image(
        self, recipe: ImageRecipe | None = None, *, refresh: bool = False, lock: Lock | None = None
    ) -> Image:
        """The image of `recipe`, or the one that machines start from, built if it is not there."""
        recipe = recipe or ImageRecipe()
        return self.builder(recipe).build(recipe, self.origin(recipe), refresh=refresh, lock=lock)

    def builder(self, recipe: ImageRecipe, cache: Path | None = None) -> Builder:
        """What builds `recipe`, below the image cache of the user or another."""
        keys = None
        if recipe.secure_boot is not None:
            keys = self.own_keys() if recipe.secure_boot == "own" else open_own_keys(Path(recipe.secure_boot))
        place = make_private(cache or self._cache / "image")
        return Builder(place, self.toolbox, self._surroundings.uid, self._report, keys)

    def origin(self, recipe: ImageRecipe) -> Origin:
        """Where the packages of `recipe` are from; the host's archive is asked only when they are fetched.

        Raises `UnavailableError` where the host's distribution is unknown and the recipe names none.
        """
        distribution = recipe.distribution or os_release(Path("/")).get("ID", "unknown")
        if distribution not in DISTRIBUTIONS:
            raise UnavailableError(
                f"distribution {distribution!r} makes no guests",
                hint=f"have the recipe name one of {', '.join(DISTRIBUTIONS)}, and a mirror",
            )
        release = recipe.release or RELEASES[distribution]

        def apt() -> AptRoot:
            mirror = recipe.mirror or self._mirror
            archive = archive_of(Path("/"), distribution, release, mirror=mirror)
            backports = archive.backports if takes_backports(recipe, distribution, release) else ()
            return self._apt_of(archive, archive.stable + backports)

        return Origin(distribution, release, apt)

    def overlay(self, base: DiskImage, path: Path) -> None:
        """Make a disk at `path` that reads from `base` and takes all writes itself."""
        path.unlink(missing_ok=True)
        run(self.overlay_command(base, path), timeout=KEYGEN_SECONDS)

    def overlay_command(self, base: DiskImage, path: Path) -> list[str]:
        """The command that makes such a disk."""
        backing = ["-b", str(base.path), "-F", base.format]
        return [*self.program("qemu-img"), "create", "-q", "-f", "qcow2", *backing, str(path)]

    def ssh_key(self, path: Path) -> str:
        """Make an SSH key pair at `path` if there is none; return the public half, one line."""
        public = path.with_name(f"{path.name}.pub")
        if not public.exists():
            path.unlink(missing_ok=True)
            run(self.ssh_key_command(path), timeout=KEYGEN_SECONDS)
        return public.read_text(encoding="ascii").strip()

    def ssh_key_command(self, path: Path) -> list[str]:
        """The command that makes such a key pair."""
        options = ["-q", "-t", "ed25519", "-N", "", "-C", "tdxstack"]
        return [*self.program("ssh-keygen"), *options, "-f", str(path)]

    @property
    def own_keys_directory(self) -> Path:
        """Where the user's Secure Boot keys are or would be."""
        return self._surroundings.directories.data / "secure-boot"

    def own_keys(self) -> OwnKeys:
        """The user's Secure Boot keys, made on first use."""
        return open_own_keys(self.own_keys_directory)

    def _source(self, version: str, source: Path | None) -> Source:
        if source is not None:
            return emulator_source.local_source(source)
        apt = self.apt(lambda archive: archive.stable[:1], source_packages=True)
        if version:
            return emulator_source.pinned_source(version, apt, self._cache / "sources", self._report)
        return emulator_source.archive_source(apt, self._report)
