"""An existing disk image as base: files are put into its ext4 by debugfs, without root or running it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tdxstack.errors import CommandError, MalformedError, UnavailableError, UsageError
from tdxstack.image import built, disk, mkosi
from tdxstack.image.additions import base_additions
from tdxstack.image.build import PACKAGE, VERSION
from tdxstack.image.built import Image
from tdxstack.image.disk import Tools
from tdxstack.image.distribution import DISTRIBUTIONS
from tdxstack.image.guest_side import GuestFile
from tdxstack.image.kernel import missing_options
from tdxstack.image.recipe import Base, ImageRecipe, Mkosi
from tdxstack.prediction.ext4 import Ext4
from tdxstack.prediction.partitions import read_partitions
from tdxstack.prediction.qcow2 import Disk, image_format, is_whole, open_disk
from tdxstack.run import Report, run
from tdxstack.toolbox.archive import archive_of, stanzas
from tdxstack.toolbox.programs import Toolbox
from tdxstack.workflows.image_change import E2FSCK_REPAIRED

_DOWNLOAD_SECONDS = 2 * 60 * 60.0
_SECONDS = 10 * 60.0
_MKOSI_NEED = 4 << 30
_QUOTE = str.maketrans({'"': '""'})


@dataclass(frozen=True, slots=True)
class _Found:
    """What a base image has: its root file system, and what it says of itself."""

    start: int
    """Byte at which the root partition starts."""
    os_release: dict[str, str]
    packages: dict[str, str]


def build_on_base(
    recipe: ImageRecipe, base: Base, cache: Path, toolbox: Toolbox, mirror: str, report: Report
) -> Image:
    """The image of a `recipe` with a `base`, built below `cache` if it is not there yet.

    Raises `UsageError` where the base has no root file system that can be changed, or not the checksum of the
    recipe, `UnavailableError` for a kernel that cannot be a TD guest's.
    """
    with built.only_builder(cache, report):
        source = _source(base, cache, toolbox, mirror, report)
        digest = built.sha256(source)
        if base.sha256 not in (None, digest):
            raise UsageError(f"{source} has SHA-256 {digest}, not {base.sha256}", hint="correct the recipe")
        added = base_additions(recipe, PACKAGE)
        key = _key(recipe, digest, added)
        place = cache / "images" / key
        if not (place / built.MANIFEST).is_file():
            with built.workspace(cache, 3 * source.stat().st_blocks * 512 + (1 << 30)) as work:
                _make(recipe, source, added, key, work, Tools(toolbox, 0, report))
                built.publish(work / "image", place)
        return built.load(place)


def debugfs_commands(files: Sequence[GuestFile], staging: Path, present: set[str]) -> Iterator[str]:
    """What has debugfs put `files`, which lie numbered in `staging`, where they belong.

    `present` are the paths that there are already: of directories, which are left alone, and of files, which
    are replaced.
    """
    made: set[str] = set()
    for number, file in enumerate(files):
        parts = PurePosixPath(file.path).parts
        for depth in range(1, len(parts)):
            directory = "/".join(parts[:depth])
            if directory not in present and directory not in made:
                made.add(directory)
                yield f"mkdir {_quoted(directory)}"
        if file.path in present:
            yield f"rm {_quoted(file.path)}"
        if file.link:
            yield f"symlink {_quoted(file.path)} {file.link}"
            continue
        yield f"write {_quoted(staging / str(number))} {_quoted(file.path)}"
        for field, value in (("mode", f"0100{file.mode:o}"), ("uid", "0"), ("gid", "0")):
            yield f"set_inode_field {_quoted(file.path)} {field} {value}"


def _quoted(path: str | Path) -> str:
    """An absolute path, or one from the root of the image, as a word of debugfs."""
    return f'"/{str(path).lstrip("/").translate(_QUOTE)}"'


def _make(
    recipe: ImageRecipe, source: Path, added: Sequence[GuestFile], key: str, work: Path, tools: Tools
) -> None:
    tools.report("guest image: base", 0.1)
    raw = work / "disk.raw"
    tools.run("qemu-img", "convert", "-f", image_format(source), "-O", "raw", source, raw)
    with open_disk(raw) as opened:
        missing = _missing_options(opened)
    able = [version for version, options in missing.items() if not options]
    if missing and not able:
        lacks = [f"{version} was built without {', '.join(options)}" for version, options in missing.items()]
        raise UnavailableError(
            f"no kernel of {source.name} can run in a TD: {'; '.join(lacks)}", hint="use a newer image"
        )
    with open_disk(raw) as opened:
        found = _look(opened, source)
    system = f"{raw}?offset={found.start}"
    _check(tools, system, "-p")
    tools.report("guest image: files", 0.4)
    _put(tools, raw, found.start, added, work)
    _check(tools, system, "-n")
    result = work / "image"
    result.mkdir()
    path = result / f"disk.{recipe.format.qemu}"
    tools.report("guest image: format", 0.7)
    disk.convert(tools, raw, path, recipe.format)
    path.chmod(0o444)
    image = Image(
        path=path,
        key=key,
        name=recipe.name,
        format=recipe.format.qemu,
        distribution=found.os_release.get("ID", ""),
        release=found.os_release.get("VERSION_CODENAME", ""),
        boot="base",
        root="ext4",
        root_hash="",
        kernel_version=able[-1] if able else "",
        kernel_command_line="",
        root_uuid="",
        build_time=0,
        signed_by="",
        packages=found.packages,
        suites={},
        boot_files={},
        files={path.name: built.sha256(path)},
        warnings=() if able else ("the base's kernel could not be looked at",),
    )
    built.write_manifest(image)


def _missing_options(opened: Disk) -> dict[str, list[str]]:
    """What each kernel whose configuration is on the disk lacks for a TD, by version."""
    found = {}
    for partition in read_partitions(opened).partitions:
        with contextlib.suppress(MalformedError):
            system = Ext4(opened, partition.start)
            for version, path in _configurations(system):
                config = (system.read(path) or b"").decode(errors="replace")
                found[version] = missing_options(config)
    return dict(sorted(found.items()))


def _configurations(system: Ext4) -> Iterator[tuple[str, str]]:
    """Version and path of the kernels' configurations: of a root file system, or one of its own for /boot."""
    for directory in ("/boot", "/"):
        for name in system.names(directory) if system.is_directory(directory) else ():
            if name.startswith("config-"):
                yield name.removeprefix("config-"), f"{directory}/{name}"
    modules = "/usr/lib/modules"
    for version in system.names(modules) if system.is_directory(modules) else ():
        path = f"{modules}/{version}"
        if version not in (".", "..") and system.is_directory(path) and "config" in system.names(path):
            yield version, f"{path}/config"


def _look(opened: Disk, source: Path) -> _Found:
    """Find the root file system: the ext4 that has an os-release."""
    for partition in read_partitions(opened).partitions:
        try:
            system = Ext4(opened, partition.start)
            text = system.read("/usr/lib/os-release") or system.read("/etc/os-release")
        except UsageError:
            continue
        if text is not None:
            pairs = (line.partition("=") for line in text.decode(errors="replace").splitlines())
            status = (system.read("/var/lib/dpkg/status") or b"").decode(errors="replace")
            packages = {
                fields["package"]: fields.get("version", "")
                for fields in stanzas(status)
                if "package" in fields and fields.get("status", "").endswith(" installed")
            }
            return _Found(partition.start, {name: value.strip('"') for name, _, value in pairs}, packages)
    raise UsageError(
        f"{source} has no partition with a root file system in ext4",
        hint="XFS, Btrfs, LVM and LUKS cannot be changed without root; give cloud-init a seed disk",
    )


def _put(tools: Tools, raw: Path, start: int, files: Sequence[GuestFile], work: Path) -> None:
    """Put `files` into the file system, and read every one of them again."""
    staging = work / "files"
    staging.mkdir()
    for number, file in enumerate(files):
        (staging / str(number)).write_bytes(file.data)
    with open_disk(raw) as opened:
        system = Ext4(opened, start)
        files = [_resolved(file, system) for file in files]
        present = {path for file in files for path in _with_parents(file.path) if _is_there(system, path)}
        for path in sorted({file.path for file in files} & present):
            if system.is_directory(f"/{path}"):
                raise UsageError(f"/{path} is a directory in the image", hint="name the file in it")
    script = work / "debugfs.commands"
    script.write_text("".join(f"{line}\n" for line in debugfs_commands(files, staging, present)))
    done = tools.run("debugfs", "-w", "-f", script, f"{raw}?offset={start}")
    with open_disk(raw) as opened:
        system = Ext4(opened, start)
        for file in files:
            wanted = system.read(file.link) if file.link else file.data
            if system.read(f"/{file.path}") != wanted:
                said = done.stderr.decode(errors="replace").splitlines()[1:]
                raise CommandError(
                    f"/{file.path} could not be put into the image: {'; '.join(said)[:200]}",
                    hint="there may be no room in it: `tdx image grow` makes some",
                )


def _resolved(file: GuestFile, system: Ext4) -> GuestFile:
    """The file below /usr where its first directory is a link into that."""
    first = file.path.split("/", 1)[0]
    merged = first in ("bin", "lib", "lib64", "sbin") and system.is_directory(f"/usr/{first}")
    return GuestFile(f"usr/{file.path}", file.data, file.mode) if merged else file


def _with_parents(path: str) -> Iterator[str]:
    parts = path.split("/")
    return ("/".join(parts[:depth]) for depth in range(1, len(parts) + 1))


def _is_there(system: Ext4, path: str) -> bool:
    parent, _, name = path.rpartition("/")
    return system.is_directory(f"/{parent}") and name in system.names(f"/{parent}")


def _check(tools: Tools, system: str, how: str) -> None:
    """Have e2fsck replay the journal and repair (`-p`), or only look (`-n`)."""
    command = tools.toolbox.program("e2fsck", tools.report).argv("-f", how, system)
    done = run(command, timeout=_SECONDS, check=False)
    if done.returncode and not (how == "-p" and done.returncode == E2FSCK_REPAIRED):
        text = (done.stdout + done.stderr).decode(errors="replace").strip().splitlines()
        raise CommandError(
            f"the base's file system is damaged: {' '.join(text[-1:])[:200]}", hint="give a whole image"
        )


def _source(base: Base, cache: Path, toolbox: Toolbox, mirror: str, report: Report) -> Path:
    if base.image is not None:
        return base.image
    if base.mkosi is not None:
        return _made(base.mkosi, cache, toolbox, mirror, report)
    return _downloaded(base, cache, report)


def _made(wanted: Mkosi, cache: Path, toolbox: Toolbox, mirror: str, report: Report) -> Path:
    """What mkosi makes, kept by what it was asked for."""
    sources = ""
    if wanted.distribution in DISTRIBUTIONS:
        mirror = wanted.mirror or mirror
        archive = archive_of(Path("/"), wanted.distribution, wanted.release, mirror=mirror)
        sources = archive.sources(archive.stable)
    asked = json.dumps(mkosi.configuration(wanted, sources))
    place = cache / "bases" / f"mkosi-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.raw"
    if not place.exists():
        place.parent.mkdir(exist_ok=True)
        with built.workspace(cache, _MKOSI_NEED) as work:
            log, packages = cache / "mkosi.log", cache / "mkosi-packages"
            made = mkosi.build(wanted, sources, packages, toolbox, work, log=log, report=report)
            made.replace(place)
    return place


def _downloaded(base: Base, cache: Path, report: Report) -> Path:
    """The file of an address, kept by its checksum."""
    assert base.url is not None
    place = cache / "bases" / str(base.sha256)
    if not place.exists():
        place.parent.mkdir(exist_ok=True)
        report("downloading the base image", None)
        partial = place.with_name(f".{place.name}.part")
        argv = ["/usr/lib/apt/apt-helper", "download-file", base.url, str(partial), f"SHA256:{base.sha256}"]
        done = run(argv, timeout=_DOWNLOAD_SECONDS, check=False)
        if done.returncode or built.sha256(partial) != base.sha256:
            # the second is how apt-helper puts aside what has another checksum
            for left in (partial, partial.with_name(f"{partial.name}.FAILED")):
                left.unlink(missing_ok=True)
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise UnavailableError(
                f"{base.url} cannot be had: {' '.join(said[-1:])[:200]}",
                hint="correct its address, or its sha256",
            )
        if not is_whole(partial):
            partial.unlink()
            raise UsageError(
                f"the image at {base.url} goes on in another file",
                hint="files of this host would get into yours: give a whole image",
            )
        partial.replace(place)
    return place


def _key(recipe: ImageRecipe, digest: str, added: Sequence[GuestFile]) -> str:
    files = [f"{file.path} {file.mode:o} {hashlib.sha256(file.data).hexdigest()}" for file in added]
    parts = ["base", str(VERSION), recipe.name, recipe.format, digest, *files]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
