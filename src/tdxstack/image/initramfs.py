"""The initial RAM file system: tiny-initramfs with the modules that the root disk needs."""

from __future__ import annotations

import lzma
import posixpath
from collections.abc import Callable

from tdxstack.errors import MalformedError

INIT = "usr/libexec/tiny-initramfs/init-static"
"""The program that loads the modules of `/modules`, mounts the root file system and starts its init."""

_FILE, _DIRECTORY = 0o100000, 0o040000


def initramfs(init: bytes, modules: list[tuple[str, bytes]]) -> bytes:
    """A cpio archive (format newc, not compressed) that mounts the root after inserting `modules` in order.

    `modules` are file names without directories and their uncompressed contents. The same input gives
    the same bytes: inode numbers count up, times are 0.
    """
    entries = [(name, _DIRECTORY | 0o755, b"") for name in ("dev", "proc", "target")]
    entries.append(("init", _FILE | 0o755, init))
    entries += [(name, _FILE | 0o644, data) for name, data in modules]
    if modules:
        entries.append(("modules", _FILE | 0o644, "".join(f"/{name}\n" for name, _ in modules).encode()))
    members = [_member(inode, name, mode, data) for inode, (name, mode, data) in enumerate(entries, 1)]
    return b"".join([*members, _member(0, "TRAILER!!!", 0, b"")])


def modules_with_dependencies(
    names: tuple[str, ...], modules_dep: str, read: Callable[[str], bytes]
) -> list[tuple[str, bytes]]:
    """The modules `names` and what they depend on, in the order of insertion, uncompressed.

    `modules_dep` is the text of the kernel's modules.dep; `read` returns a file named in it.
    Raises `MalformedError` where a module is not listed or is compressed other than with xz.
    """
    needs = {
        path.strip(): others.split()
        for path, _, others in (line.partition(":") for line in modules_dep.splitlines())
    }
    by_name = {module_name(path): path for path in needs}
    wanted: dict[str, None] = {}
    for name in names:
        if name not in by_name:
            raise MalformedError(
                f"the kernel has no module {name}", hint="use a kernel that has it as a module"
            )
        path = by_name[name]
        # modules.dep names what must be inserted first last.
        wanted.update(dict.fromkeys([*reversed(needs[path]), path]))
    return [(f"{module_name(path)}.ko", _uncompressed(path, read(path))) for path in wanted]


def module_name(path: str) -> str:
    """The name that modprobe(8) knows the module file `path` by."""
    return posixpath.basename(path).partition(".ko")[0].replace("-", "_")


def _uncompressed(path: str, data: bytes) -> bytes:
    if path.endswith(".ko"):
        return data
    if not path.endswith(".ko.xz"):
        raise MalformedError(
            f"module {path} is compressed in an unknown way", hint="only .ko and .ko.xz are read"
        )
    try:
        return lzma.decompress(data, lzma.FORMAT_XZ)
    except lzma.LZMAError as error:
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
