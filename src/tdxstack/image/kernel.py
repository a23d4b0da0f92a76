"""A guest's kernel: what it must be able to do, read from the configuration that it was built with."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import MalformedError, UnavailableError
from tdxstack.image.initramfs import (
    INIT,
    initramfs,
    modules_for,
    modules_with_dependencies,
    verified_initramfs,
)
from tdxstack.image.recipe import ImageRecipe

REQUIRED = {
    "INTEL_TDX_GUEST": "run in a TD",
    "TDX_GUEST_DRIVER": "get a TDREPORT (/dev/tdx_guest)",
    "TSM_REPORTS": "get a quote (configfs-tsm)",
    "EFI_STUB": "be started by firmware",
    "VIRTIO_PCI": "find its devices",
    "VIRTIO_BLK": "read its disk",
}
"""Options without the CONFIG_ prefix, and what the guest cannot do without each."""

WANTED = {
    "TSM_MEASUREMENTS": "read and extend RTMRs in sysfs (kernel 6.16 and newer)",
    "UNACCEPTED_MEMORY": "accept memory while it runs, only before it starts",
    "VIRTIO_NET": "be reached over the network",
    "FW_CFG_SYSFS": "read the SSH key that it is started with",
}
"""The same for what an image may do without."""

_SET = re.compile(r"^CONFIG_(\w+)=(.+)$", re.MULTILINE)
_HINT = "use a newer kernel (for Debian: kernel: backports)"


@dataclass(frozen=True, slots=True)
class GuestKernel:
    """The kernel of an installed tree."""

    version: str
    image: bytes
    initrd: bytes
    os_release: bytes
    warnings: tuple[str, ...]


def guest_kernel(recipe: ImageRecipe, tree: Path, unzstd: Callable[[bytes], bytes]) -> GuestKernel:
    """The one kernel in the installed tree (a tar archive), and an initial RAM file system for it.

    `unzstd` returns what zstd has compressed.
    Raises `UnavailableError` where the kernel cannot be a TD guest's, `MalformedError` for a missing file.
    """
    with tarfile.open(tree) as archive:
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
            raise MalformedError(
                f"the guest has {len(versions)} kernels, not 1: {', '.join(versions)}",
                hint="have the recipe's packages bring no kernel of their own",
            )
        version = versions[0]
        config = read(f"boot/config-{version}").decode(errors="replace")
        warnings = check(version, config)
        directory = f"usr/lib/modules/{version}"
        modules = modules_with_dependencies(
            modules_for(recipe.root),
            read(f"{directory}/modules.dep").decode(errors="replace"),
            read(f"{directory}/modules.builtin").decode(errors="replace"),
            lambda path: read(f"{directory}/{path}"),
            unzstd,
        )
        verified = recipe.root.verified
        initrd = verified_initramfs(read, modules) if verified else initramfs(read(INIT), modules)
        return GuestKernel(
            version, read(f"boot/vmlinuz-{version}"), initrd, read("usr/lib/os-release"), warnings
        )


def options(config: str) -> dict[str, str]:
    """The options that are set in a kernel's config file, without the CONFIG_ prefix: y, m or a value."""
    return dict(_SET.findall(config))


def missing_options(config: str) -> list[str]:
    """The options of `REQUIRED` that a kernel was built without."""
    found = options(config)
    return [name for name in REQUIRED if found.get(name) not in ("y", "m")]


def check(version: str, config: str) -> tuple[str, ...]:
    """What a guest of this kernel will not be able to do although it can be a TD's.

    Raises `UnavailableError`, naming what is missing, for a kernel without an option of `REQUIRED`.
    """
    found = options(config)
    missing = missing_options(config)
    if missing:
        raise UnavailableError(
            f"kernel {version} cannot {', nor '.join(REQUIRED[name] for name in missing)}: "
            f"built without {', '.join(f'CONFIG_{name}' for name in missing)}",
            hint=_HINT,
        )
    return tuple(
        f"kernel {version} cannot {meaning}: built without CONFIG_{name}"
        for name, meaning in WANTED.items()
        if found.get(name) not in ("y", "m")
    )
