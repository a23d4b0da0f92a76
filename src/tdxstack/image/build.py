"""Guest images: built from distribution packages, cached, shared by all machines as a read-only base."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tdxstack import files
from tdxstack.errors import MalformedError, UnavailableError
from tdxstack.image import base_tree, disk, kernel, recipe
from tdxstack.image.guest_side import GuestFile, guest_files
from tdxstack.image.initramfs import INIT, initramfs, modules_with_dependencies
from tdxstack.image.recipe import DISTRIBUTIONS, Distribution
from tdxstack.run import Report, silent
from tdxstack.toolbox.apt import AptRoot, Deb, extract
from tdxstack.toolbox.programs import Toolbox

PACKAGE = Path(__file__).parent.parent
"""The directory of the package tdxstack, whose guest side goes into images."""

_NEEDED_BYTES = 3 << 29
_MANIFEST, _DISK, _TREE = "manifest.json", "disk.qcow2", "tree.json"


@dataclass(frozen=True, slots=True)
class Image:
    """A guest's disk and what it was made of. The disk is read-only: machines write to overlays of it."""

    path: Path
    key: str
    format: str
    kernel_version: str
    kernel_command_line: str
    """As GRUB passes it on, BOOT_IMAGE included."""
    root_uuid: str
    build_time: int
    """Of the newest package, in seconds since 1970."""
    packages: dict[str, str]
    """Versions by name of what is installed in the guest, and of the boot loaders."""
    suites: dict[str, str]
    """Dates (ISO 8601, UTC) of the signed Release files that the packages were chosen from, by suite."""
    boot_files: dict[str, str]
    """SHA-256 in hex of the files that boot it: of the EFI system partition, and of /boot."""


@dataclass(frozen=True, slots=True)
class _Tree:
    """An installed tree in the cache, with the boot loaders that belong to it."""

    directory: Path
    distribution: Distribution
    build_time: int
    packages: dict[str, str]
    suites: dict[str, str]

    @property
    def archive(self) -> Path:
        return self.directory / "base.tar"


def build(
    cache: Path,
    apt: Callable[[], AptRoot],
    toolbox: Toolbox,
    *,
    uid: int,
    report: Report = silent,
    refresh: bool = False,
) -> Image:
    """The guest image of this version of tdxstack, built below `cache` if it is not there yet.

    `apt` makes the apt root of a distribution's stable and backports suites; it is called, and the network
    used, only where no tree of this version's recipes is in the cache, or with `refresh`, which looks for
    newer packages. `uid` is who runs this: users other than root need user namespaces. Safe to call from
    several processes at once; a build that is killed leaves nothing that the next one does not remove.

    Raises `UnavailableError` for a missing network, namespace, space or kernel option, `CommandError` where a
    program fails.
    """
    with files.lock(cache / "lock"):
        _remove_leftovers(cache)
        tree = None if refresh else _newest_tree(cache)
        if tree is None:
            tree = _make_tree(cache, apt(), uid, report)
        additions = guest_files(PACKAGE, tree.distribution)
        key = _digest([tree.directory.name, _image_recipe(tree.distribution, additions)])
        place = cache / "images" / key
        if not (place / _MANIFEST).is_file():
            with _workspace(cache) as work:
                _make_image(tree, additions, toolbox, key, work, report)
                _publish(work / "image", place)
        return _load(place)


def cached(cache: Path) -> list[Image]:
    """The images in the cache, newest last; without those of other versions of tdxstack."""
    found = []
    for path in sorted((cache / "images").glob("*/" + _MANIFEST), key=lambda path: path.stat().st_mtime):
        with contextlib.suppress(MalformedError):
            found.append(_load(path.parent))
    return found


def _make_tree(cache: Path, apt: AptRoot, uid: int, report: Report) -> _Tree:
    """Install the packages that the archive has now, unless that very tree is in the cache."""
    distribution = DISTRIBUTIONS[apt.archive.distribution]
    releases = apt.update(report)
    report("guest packages", None)
    essential, others = base_tree.fetch(apt, report)
    loaders = apt.fetch(recipe.BOOT_LOADERS, with_dependencies=False, report=report)
    debs = [*essential, *others, *loaders]
    place = cache / "trees" / f"{_tree_recipe(distribution)}-{_digest(_identities(debs))}"
    if not (place / _TREE).is_file():
        with _workspace(cache) as work:
            result = work / "tree"
            result.mkdir()
            log = cache / "install.log"
            made = base_tree.install(essential, others, work / "install", log=log, uid=uid, report=report)
            made.replace(result / "base.tar")
            boot = extract(loaders, work / "loaders")
            shutil.copyfile(boot / distribution.shim, result / "shimx64.efi")
            shutil.copyfile(boot / recipe.GRUB, result / "grubx64.efi")
            record = {
                "build_time": base_tree.build_time(debs),
                "packages": {deb.name: deb.version for deb in sorted(debs, key=lambda deb: deb.name)},
                "suites": {release.suite: release.date.isoformat() for release in releases},
            }
            (result / _TREE).write_text(json.dumps(record, indent=1))
            _publish(result, place)
    return _load_tree(place, distribution)


def _make_image(
    tree: _Tree, additions: Sequence[GuestFile], toolbox: Toolbox, key: str, work: Path, report: Report
) -> None:
    """Make the disk and its manifest in `work`/image."""
    report("guest image: boot files", None)
    version, in_boot = _kernel_files(tree)
    esp = {
        "EFI/BOOT/BOOTX64.EFI": (tree.directory / "shimx64.efi").read_bytes(),
        "EFI/BOOT/grubx64.efi": (tree.directory / "grubx64.efi").read_bytes(),
        f"{tree.distribution.grub_directory}/grub.cfg": recipe.grub_config(version).encode(),
    }
    report("guest image: root file system", 0.2)
    initrd = GuestFile(f"boot/initrd.img-{version}", in_boot[f"boot/initrd.img-{version}"])
    root = work / "root.tar"
    disk.root_archive(tree.archive, [*additions, initrd], root, epoch=tree.build_time)
    report("guest image: disk", 0.6)
    made = disk.assemble(toolbox, root, esp, work, epoch=tree.build_time, report=report)
    result = work / "image"
    result.mkdir()
    made.replace(result / _DISK)
    (result / _DISK).chmod(0o444)
    image = Image(
        path=result / _DISK,
        key=key,
        format="qcow2",
        kernel_version=version,
        kernel_command_line=f"BOOT_IMAGE=/boot/vmlinuz-{version} {recipe.kernel_command_line()}",
        root_uuid=str(recipe.ROOT_UUID),
        build_time=tree.build_time,
        packages=tree.packages,
        suites=tree.suites,
        boot_files={
            path: hashlib.sha256(data).hexdigest() for path, data in sorted({**esp, **in_boot}.items())
        },
    )
    record = {name: value for name, value in dataclasses.asdict(image).items() if name != "path"}
    (result / _MANIFEST).write_text(json.dumps(record, indent=1))
    report("guest image", 1.0)


def _kernel_files(tree: _Tree) -> tuple[str, dict[str, bytes]]:
    """The version of the kernel in the tree, and the kernel and initial RAM file system by path.

    Raises `UnavailableError` where the kernel cannot do what a TD needs.
    """
    with tarfile.open(tree.archive) as archive:
        names = archive.getnames()

        def read(path: str) -> bytes:
            try:
                member = archive.extractfile(f"./{path}")
            except KeyError:
                member = None
            if member is None:
                raise MalformedError(f"the guest's packages have no file {path}", hint="use another --mirror")
            return member.read()

        prefix = "./boot/vmlinuz-"
        versions = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        if len(versions) != 1:
            raise MalformedError(f"the guest has {len(versions)} kernels, not 1", hint="use another --mirror")
        version = versions[0]
        kernel.check(version, read(f"boot/config-{version}").decode(errors="replace"))
        modules = f"usr/lib/modules/{version}"
        insert = modules_with_dependencies(
            tree.distribution.initramfs_modules,
            read(f"{modules}/modules.dep").decode(errors="replace"),
            lambda path: read(f"{modules}/{path}"),
        )
        return version, {
            f"boot/vmlinuz-{version}": read(f"boot/vmlinuz-{version}"),
            f"boot/initrd.img-{version}": initramfs(read(INIT), insert),
        }


def _tree_recipe(distribution: Distribution) -> str:
    """Of what the installed tree depends on besides the packages' versions."""
    names = [*recipe.ESSENTIAL, *recipe.SYSTEM, *distribution.kernel, *recipe.BOOT_LOADERS]
    return _digest([str(recipe.VERSION), base_tree.SCRIPT.read_text(), *names])


def _image_recipe(distribution: Distribution, additions: Sequence[GuestFile]) -> str:
    """Of what an image depends on besides the installed tree."""
    partitions = disk.table().partitions
    return _digest(
        [
            str(recipe.VERSION),
            disk.table().primary().hex(),
            *(
                word
                for part in partitions
                for word in (*disk.vfat_arguments(part), *disk.ext4_arguments(part))
            ),
            recipe.grub_config("VERSION"),
            *distribution.initramfs_modules,
            *(
                f"{file.path} {file.mode:o} {file.link} {hashlib.sha256(file.data).hexdigest()}"
                for file in additions
            ),
        ]
    )


def _identities(debs: Sequence[Deb]) -> list[str]:
    return sorted(f"{deb.name}={deb.version} {deb.sha256}" for deb in debs)


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:16]


def _newest_tree(cache: Path) -> _Tree | None:
    found = [
        (path.stat().st_mtime, path.parent, distribution)
        for distribution in DISTRIBUTIONS.values()
        for path in (cache / "trees").glob(f"{_tree_recipe(distribution)}-*/{_TREE}")
    ]
    if not found:
        return None
    _, place, distribution = max(found, key=lambda entry: entry[0])
    return _load_tree(place, distribution)


def _load_tree(place: Path, distribution: Distribution) -> _Tree:
    try:
        return _Tree(place, distribution, **json.loads((place / _TREE).read_text()))
    except (ValueError, TypeError):
        raise _damaged(place) from None


def _load(place: Path) -> Image:
    try:
        return Image(path=place / _DISK, **json.loads((place / _MANIFEST).read_text()))
    except (ValueError, TypeError):
        raise _damaged(place) from None


def _damaged(place: Path) -> MalformedError:
    return MalformedError(f"{place} is damaged", hint="delete it; it will be made again")


def _remove_leftovers(cache: Path) -> None:
    """Remove what killed builds left; the caller holds the lock, so that nobody is using it."""
    for path in cache.glob("work.*"):
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _workspace(cache: Path) -> Iterator[Path]:
    free = shutil.disk_usage(cache).free
    if free < _NEEDED_BYTES:
        raise UnavailableError(
            f"{cache} has {free / 1e9:.1f} GB free, and a guest image needs {_NEEDED_BYTES / 1e9:.1f} GB",
            hint="free space, for instance with `tdx emulator prune`",
        )
    work = Path(tempfile.mkdtemp(prefix="work.", dir=cache))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _publish(result: Path, place: Path) -> None:
    """Move the finished directory `result` to `place`, durably and in one step."""
    for path in result.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    place.parent.mkdir(exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    result.replace(place)
