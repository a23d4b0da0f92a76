"""The initial RAM file system: with the modules that the root disk needs, and what mounts it.

For a root that is written to, that is tiny-initramfs; for a verified one, a script and veritysetup.
"""

from __future__ import annotations

import lzma
import posixpath
from collections.abc import Callable, Mapping
from pathlib import Path

from tdxstack.errors import CommandError, MalformedError
from tdxstack.image.elf import needed
from tdxstack.image.recipe import Root

INIT = "usr/libexec/tiny-initramfs/init-static"
"""The program that loads the modules of `/modules`, mounts the root file system and starts its init."""

BUSYBOX = "usr/bin/busybox"
VERITYSETUP = "usr/sbin/veritysetup"
VERITY_INIT = Path(__file__).with_name("verity_init.sh")

_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_FILE, _DIRECTORY = 0o100000, 0o040000


def initramfs(init: bytes, modules: list[tuple[str, bytes]]) -> bytes:
    """A cpio archive (format newc, not compressed) that mounts the root after inserting `modules` in order.

    `modules` are file names without directories and their uncompressed contents.
    """
    return cpio({"dev": None, "proc": None, "target": None, "init": init} | _inserted(modules), {"init"})


def verified_initramfs(read: Callable[[str], bytes], modules: list[tuple[str, bytes]]) -> bytes:
    """The same for a root file system that the root hash on the kernel command line vouches for.

    `read` returns a file of the installed tree, without the leading slash, and raises `MalformedError` where
    there is none.
    """
    files: dict[str, bytes | None] = {
        **dict.fromkeys(("dev", "lower", "proc", "run", "sys", "target", "write", "usr", "lib64")),
        **dict.fromkeys(("usr/lib", "usr/lib/x86_64-linux-gnu")),
        "init": VERITY_INIT.read_bytes(),
        "busybox": read(BUSYBOX),
        "veritysetup": read(VERITYSETUP),
        "lib64/ld-linux-x86-64.so.2": read(f"{_LIBRARIES}/ld-linux-x86-64.so.2"),
    }
    files |= {f"{_LIBRARIES}/{name}": data for name, data in _libraries(VERITYSETUP, read).items()}
    return cpio(files | _inserted(modules), {"init", "busybox", "veritysetup", "lib64/ld-linux-x86-64.so.2"})


def cpio(files: Mapping[str, bytes | None], programs: set[str]) -> bytes:
    """An archive in the format newc of `files` by path, in their order; None is a directory.

    The same input gives the same bytes: inode numbers count up, times are 0.
    """
    members = []
    for inode, (path, data) in enumerate(files.items(), 1):
        mode = _DIRECTORY | 0o755 if data is None else _FILE | (0o755 if path in programs else 0o644)
        members.append(_member(inode, path, mode, data or b""))
    return b"".join([*members, _member(0, "TRAILER!!!", 0, b"")])


def modules_for(root: Root) -> tuple[str, ...]:
    """What a kernel needs that has to mount such a root file system, as far as it is not built in."""
    file_system = {Root.VERITY_EROFS: "erofs"}.get(root, "ext4")
    verified = ("dm_verity", "overlay") if root.verified else ()
    return ("virtio_pci", "virtio_blk", file_system, *verified)


def modules_with_dependencies(
    names: tuple[str, ...],
    modules_dep: str,
    built_in: str,
    read: Callable[[str], bytes],
    unzstd: Callable[[bytes], bytes],
) -> list[tuple[str, bytes]]:
    """The modules `names` and what they depend on, in the order of insertion, uncompressed.

    `modules_dep` and `built_in` are the texts of the kernel's modules.dep and modules.builtin; what is built
    in is left out. `read` returns a file named in the former, `unzstd` what zstd has compressed. Raises
    `MalformedError` where a module is not listed or is compressed in an unknown way.
    """
    needs = {
        path.strip(): others.split()
        for path, _, others in (line.partition(":") for line in modules_dep.splitlines())
    }
    by_name = {module_name(path): path for path in needs}
    present = {module_name(path) for path in built_in.splitlines()}
    wanted: dict[str, None] = {}
    for name in names:
        if name in present:
            continue
        if name not in by_name:
            raise MalformedError(
                f"the kernel has no module {name}", hint="use a kernel that has it as a module, or built in"
            )
        path = by_name[name]
        # modules.dep names what must be inserted first last.
        wanted.update(dict.fromkeys([*reversed(needs[path]), path]))
    return [(f"{module_name(path)}.ko", _uncompressed(path, read(path), unzstd)) for path in wanted]


def module_name(path: str) -> str:
    """The name that modprobe(8) knows the module file `path` by."""
    return posixpath.basename(path).partition(".ko")[0].replace("-", "_")


def _inserted(modules: list[tuple[str, bytes]]) -> dict[str, bytes | None]:
    """The modules, and the list of them, in order."""
    if not modules:
        return {}
    return {**dict(modules), "modules": "".join(f"/{name}\n" for name, _ in modules).encode()}


def _libraries(program: str, read: Callable[[str], bytes]) -> dict[str, bytes]:
    """Every library that `program` is linked with, by name."""
    found: dict[str, bytes] = {}
    wanted = list(needed(read(program)))
    while wanted:
        name = wanted.pop(0)
        if name not in found and not name.startswith("ld-linux"):
            found[name] = read(f"{_LIBRARIES}/{name}")
            wanted += needed(found[name])
    return dict(sorted(found.items()))


def _uncompressed(path: str, data: bytes, unzstd: Callable[[bytes], bytes]) -> bytes:
    if path.endswith(".ko"):
        return data
    if not path.endswith((".ko.xz", ".ko.zst")):
        raise MalformedError(
            f"module {path} is compressed in an unknown way", hint="only .ko, .ko.xz and .ko.zst are read"
        )
    try:
        return unzstd(data) if path.endswith(".zst") else lzma.decompress(data, lzma.FORMAT_XZ)
    except (lzma.LZMAError, CommandError) as error:
        raise MalformedError(
            f"module {path} cannot be uncompressed: {error}", hint="fetch the package again"
        ) from None


def _member(inode: int, name: str, mode: int, data: bytes) -> bytes:
    encoded = name.encode() + b"\0"
    links = 2 if mode & _DIRECTORY else 1
    fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + "".join(f"{field:08x}" for field in fields).encode() + encoded
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
