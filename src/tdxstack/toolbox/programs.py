"""Programs for images and access to guests: the host's, or the archive's from where they are unpacked.

A program of the archive may need a newer C library than the host has. It is therefore started through the
dynamic loader that came with it, by a small script that sets the paths, so that nothing has to be installed
and no privilege is needed. The scripts find their tree relative to themselves; it may be moved and shared.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from tdxstack import files
from tdxstack.errors import UnavailableError, UsageError
from tdxstack.run import Report, silent
from tdxstack.toolbox.apt import AptRoot, Deb, extract

_LISTS_AGE = timedelta(hours=24)
_LOADER = "lib64/ld-linux-x86-64.so.2"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"


@dataclass(frozen=True, slots=True)
class Toolset:
    """Packages that are unpacked together into one tree."""

    packages: tuple[str, ...]
    with_dependencies: bool = True


@dataclass(frozen=True, slots=True)
class _Tool:
    """Where a program is in its toolset's tree, and what it needs."""

    toolset: str
    package: str
    path: str
    prefer_host: bool = False
    """Whether any version will do, so that the host's own is taken where there is one."""
    settings: tuple[tuple[str, str], ...] = ()
    """Environment of the program; `$root` is the tree."""
    libraries: str = ""
    """Directory in the tree where its own libraries are."""
    interpreter: str = ""
    """What runs it, for a program that is a script: a path in the tree."""


TOOLSETS = {
    # libarchive: what mke2fs loads to fill a file system from a tar archive
    "image": Toolset(("mtools", "dosfstools", "e2fsprogs", "libarchive13t64")),
    "partitions": Toolset(("fdisk",)),
    "qemu-img": Toolset(("qemu-utils",)),
    "verity": Toolset(("erofs-utils", "cryptsetup-bin")),
    # the tools of mkosi, and mkosi itself; essential packages, which no other names, as far as it runs them
    "mkosi": Toolset(
        (
            *("mkosi", "apt", "bash", "ca-certificates", "coreutils", "cpio", "dash", "diffutils", "dnf"),
            *("distribution-gpg-keys", "dosfstools", "dpkg", "e2fsprogs", "fdisk", "findutils", "grep"),
            *("debian-archive-keyring", "gzip", "kmod", "mtools", "perl-base", "sed", "sqv", "tar", "udev"),
            *("systemd-boot-efi", "systemd-container", "systemd-repart", "systemd-ukify", "ubuntu-keyring"),
            *("base-files", "base-passwd", "debianutils", "hostname", "init-system-helpers", "libc-bin"),
            *("ncurses-bin", "sysvinit-utils", "uidmap", "util-linux", "xz-utils", "zstd"),
        )
    ),
    "uki": Toolset(("systemd-ukify",)),
    "secure-boot": Toolset(("sbsigntool", "libfaketime", "python3-virt-firmware")),
    "ssh": Toolset(("openssh-client",)),
    "swtpm": Toolset(("swtpm",)),
    "zstd": Toolset(("zstd",)),
    # option ROMs, SeaBIOS and the loader of -kernel, which QEMU's source as Debian has it lacks
    "qemu-data": Toolset(("qemu-system-data", "seabios", "ipxe-qemu"), with_dependencies=False),
}

# names on FAT are converted by modules that must be of the same C library as the program
_FAT = (("GCONV_PATH", f"$root/{_LIBRARIES}/gconv"),)
_MTOOLS = (("MTOOLSRC", "/dev/null"), *_FAT)
_MKE2FS = (("MKE2FS_CONFIG", "$root/etc/mke2fs.conf"),)
# what it signs bears the time; FAKETIME lets the caller choose it
_FAKETIME = (("LD_PRELOAD", f"$root/{_LIBRARIES}/faketime/libfaketime.so.1"),)
_PYTHON_PROGRAM = "usr/bin/python3"
_PYTHON = (("PYTHONHOME", "$root/usr"), ("PYTHONNOUSERSITE", "1"), ("PYTHONSAFEPATH", "1"))

_TOOLS = {
    "debugfs": _Tool("image", "e2fsprogs", "usr/sbin/debugfs"),
    "e2fsck": _Tool("image", "e2fsprogs", "usr/sbin/e2fsck"),
    "mcopy": _Tool("image", "mtools", "usr/bin/mcopy", settings=_MTOOLS),
    "mmd": _Tool("image", "mtools", "usr/bin/mmd", settings=_MTOOLS),
    "mkfs.ext4": _Tool("image", "e2fsprogs", "usr/sbin/mkfs.ext4", settings=_MKE2FS),
    "mkfs.vfat": _Tool("image", "dosfstools", "usr/sbin/mkfs.vfat", settings=_FAT),
    "qemu-img": _Tool("qemu-img", "qemu-utils", "usr/bin/qemu-img", prefer_host=True),
    "resize2fs": _Tool("image", "e2fsprogs", "usr/sbin/resize2fs"),
    "sbsign": _Tool("secure-boot", "sbsigntool", "usr/bin/sbsign", settings=_FAKETIME),
    "sbverify": _Tool("secure-boot", "sbsigntool", "usr/bin/sbverify"),
    "scp": _Tool("ssh", "openssh-client", "usr/bin/scp", prefer_host=True),
    "sfdisk": _Tool("partitions", "fdisk", "usr/sbin/sfdisk"),
    "ssh": _Tool("ssh", "openssh-client", "usr/bin/ssh", prefer_host=True),
    "ssh-keygen": _Tool("ssh", "openssh-client", "usr/bin/ssh-keygen", prefer_host=True),
    "mkfs.erofs": _Tool("verity", "erofs-utils", "usr/bin/mkfs.erofs"),
    "ukify": _Tool("uki", "systemd-ukify", "usr/bin/ukify", settings=_PYTHON, interpreter=_PYTHON_PROGRAM),
    "veritysetup": _Tool("verity", "cryptsetup-bin", "usr/sbin/veritysetup"),
    "swtpm": _Tool("swtpm", "swtpm", "usr/bin/swtpm", prefer_host=True, libraries=f"{_LIBRARIES}/swtpm"),
    "zstd": _Tool("zstd", "zstd", "usr/bin/zstd", prefer_host=True),
    "virt-fw-vars": _Tool(
        "secure-boot",
        "python3-virt-firmware",
        "usr/bin/virt-fw-vars",
        settings=_PYTHON,
        interpreter=_PYTHON_PROGRAM,
    ),
}


@dataclass(frozen=True, slots=True)
class Program:
    """A program that can be run as it is, with no environment of its own."""

    name: str
    path: Path
    origin: str
    """`host`, `toolbox`, or `absent` where the toolbox would have to fetch it first."""
    version: str
    """The version of the package in the toolbox; empty for the host's."""

    def argv(self, *arguments: str | Path) -> list[str]:
        """The argument vector that runs it."""
        return [str(self.path), *(str(argument) for argument in arguments)]


class Toolbox:
    """The programs and trees below `directory`, fetched through `apt` when they are first asked for.

    `apt` makes the apt root of the stable suites; it is called only when something must be fetched.
    `search_path` is the PATH on which the host's programs are looked for.
    """

    def __init__(self, directory: Path, apt: Callable[[], AptRoot], *, search_path: str) -> None:
        self._directory = directory.absolute()
        self._apt = apt
        self._search_path = search_path

    def program(self, name: str, report: Report = silent) -> Program:
        """The program `name`, fetched first if need be.

        Raises `UsageError` for a program that no toolset has, `UnavailableError` where it cannot be fetched.
        """
        found = self.find(name)
        if found.origin == "absent":
            self.tree(_tool(name).toolset, report)
            found = self.find(name)
        return found

    def tree(self, toolset: str, report: Report = silent, *, refresh: bool = False) -> Path:
        """The root of the unpacked packages of `toolset`, fetched first if need be.

        `refresh` looks for newer versions; the older tree stays, as somebody may be using it. Raises as
        `program` does.
        """
        wanted = TOOLSETS.get(toolset)
        if wanted is None:
            raise UsageError(
                f"there is no toolset {toolset!r}", hint=f"there are {', '.join(sorted(TOOLSETS))}"
            )
        with files.lock(self._directory / f".{toolset}.lock"):
            current = self._current(toolset)
            if current is not None and not refresh:
                return current / "root"
            apt = self._apt()
            apt.update(report, max_age=timedelta(0) if refresh else _LISTS_AGE)
            debs = apt.fetch(wanted.packages, with_dependencies=wanted.with_dependencies, report=report)
            place = self._directory / f"{toolset}-{_key(apt.suites, debs)}"
            root = extract(debs, place / "root", report=report)
            _write_scripts(toolset, root, place / "run")
            record = {
                "tree": place.name,
                "wanted": list(wanted.packages),
                "suites": list(apt.suites),
                "packages": {deb.name: deb.version for deb in debs},
            }
            files.write_atomically(self._record(toolset), json.dumps(record, indent=1).encode())
            return root

    def packages(self, toolset: str) -> dict[str, str]:
        """Names and versions of the packages in the tree of `toolset`; empty if there is none yet."""
        packages = self._read(toolset).get("packages")
        return {str(name): str(packages[name]) for name in packages} if isinstance(packages, dict) else {}

    def status(self) -> list[Program]:
        """Every known program as it is now, without fetching anything."""
        return [self.find(name) for name in sorted(_TOOLS)]

    def find(self, name: str) -> Program:
        """The program `name` as it is now, not fetched. Raises `UsageError` where no toolset has it."""
        tool = _tool(name)
        if tool.prefer_host:
            host = shutil.which(name, path=self._search_path)
            if host:
                return Program(name, Path(host), "host", "")
        current = self._current(tool.toolset)
        if current is None:
            return Program(name, Path(name), "absent", "")
        version = self.packages(tool.toolset).get(tool.package, "")
        return Program(name, current / "run" / name, "toolbox", version)

    def _current(self, toolset: str) -> Path | None:
        record = self._read(toolset)
        place = self._directory / str(record.get("tree", "."))
        whole = record.get("wanted") == list(TOOLSETS[toolset].packages) and (place / "root").is_dir()
        return place if whole and _has_scripts(toolset, place) else None

    def _record(self, toolset: str) -> Path:
        return self._directory / f"{toolset}.json"

    def _read(self, toolset: str) -> dict[str, object]:
        try:
            record = json.loads(self._record(toolset).read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}


def _tool(name: str) -> _Tool:
    if name not in _TOOLS:
        raise UsageError(f"the toolbox has no program {name!r}", hint=f"it has {', '.join(sorted(_TOOLS))}")
    return _TOOLS[name]


def _key(suites: Sequence[str], debs: Sequence[Deb]) -> str:
    lines = [*suites, *sorted(f"{deb.name}={deb.version} {deb.sha256}" for deb in debs)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _tools(toolset: str) -> dict[str, _Tool]:
    return {name: tool for name, tool in _TOOLS.items() if tool.toolset == toolset}


def _has_scripts(toolset: str, place: Path) -> bool:
    """Whether a tree was made by a version of tdxstack that starts its programs as this one does."""
    try:
        return all(
            (place / "run" / name).read_text() == _script(tool) for name, tool in _tools(toolset).items()
        )
    except FileNotFoundError:
        return False


def _write_scripts(toolset: str, root: Path, directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    for name, tool in _tools(toolset).items():
        if not (root / tool.path).exists():
            raise UnavailableError(
                f"the packages of toolset {toolset} have no {tool.path}", hint="use another --mirror"
            )
        files.write_atomically(directory / name, _script(tool).encode(), mode=0o755)


def _script(tool: _Tool) -> str:
    """A script that runs `tool` out of the tree `root` that is its directory's neighbour."""
    lines = ["#!/bin/sh", "root=${0%/*}/../root"]
    lines += [f'export {key}="{value}"' for key, value in tool.settings]
    libraries = ":".join(f"$root/{path}" for path in (_LIBRARIES, tool.libraries) if path)
    command = [f'"$root/{_LOADER}"', "--library-path", f'"{libraries}"']
    programs = [f'"$root/{path}"' for path in (tool.interpreter, tool.path) if path]
    return "\n".join([*lines, " ".join(["exec", *command, *programs, '"$@"']), ""])
