"""What firmware starts of a disk: shim and then GRUB, or one unified kernel image, or nothing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tdxstack.firmware.keys import OwnKeys
from tdxstack.image.built import INITRD, KERNEL, UNIFIED
from tdxstack.image.disk import ROOT_UUID, Tools
from tdxstack.image.distribution import Distribution
from tdxstack.image.kernel import GuestKernel
from tdxstack.image.recipe import Boot, ImageRecipe
from tdxstack.image.unified_kernel import UnifiedKernel, unified_kernel

DEFAULT_PROGRAM = "EFI/BOOT/BOOTX64.EFI"
"""What firmware starts of a disk that no boot variable names (UEFI specification, section 3.5.1.1)."""

KERNEL_OPTIONS = (
    "rw",
    "console=ttyS0,115200",
    "net.ifnames=0",
    "systemd.show_status=1",
    "systemd.log_level=notice",
)


@dataclass(frozen=True, slots=True)
class Loaders:
    """The boot loaders of a distribution: files."""

    shim: Path
    grub: Path
    stub: Path


@dataclass(frozen=True, slots=True)
class BootChain:
    """Files of the EFI system partition by path, files beside the disk by name, and the command line."""

    esp: Mapping[str, bytes]
    beside: Mapping[str, bytes]
    command_line: str
    """As the kernel is given it."""


def kernel_command_line(recipe: ImageRecipe, root_hash: str) -> str:
    """What the kernel is started with; GRUB puts BOOT_IMAGE before it."""
    root = f"roothash={root_hash}" if root_hash else f"root=UUID={ROOT_UUID}"
    return " ".join((root, *KERNEL_OPTIONS, *recipe.kernel_options))


def grub_config(kernel_version: str, command_line: str) -> str:
    """GRUB's configuration: no menu, no wait; every line is measured as it is executed.

    The command line must have no quotes and backslashes: GRUB passes them on in another form.
    """
    # GRUB's language is a shell's in what quotes keep.
    words = " ".join(map(shlex.quote, command_line.split()))
    return (
        f"search --no-floppy --fs-uuid --set=root {ROOT_UUID}\n"
        f"linux /boot/vmlinuz-{kernel_version} {words}\n"
        f"initrd /boot/initrd.img-{kernel_version}\n"
        "boot\n"
    )


def boot_chain(
    recipe: ImageRecipe,
    distribution: Distribution,
    kernel: GuestKernel,
    loaders: Loaders,
    root_hash: str,
    tools: Tools,
    work: Path,
    keys: OwnKeys | None,
) -> BootChain:
    """The chain that `recipe` asks for; `keys` sign a unified kernel image. `work` is a new directory."""
    command_line = kernel_command_line(recipe, root_hash)
    if recipe.boot is Boot.GRUB:
        esp = {
            DEFAULT_PROGRAM: loaders.shim.read_bytes(),
            "EFI/BOOT/grubx64.efi": loaders.grub.read_bytes(),
            f"{distribution.grub_directory}/grub.cfg": grub_config(kernel.version, command_line).encode(),
        }
        return BootChain(esp, {}, f"BOOT_IMAGE=/boot/vmlinuz-{kernel.version} {command_line}")
    if recipe.boot is Boot.DIRECT:
        return BootChain({}, {KERNEL: kernel.image, INITRD: kernel.initrd}, command_line)
    stub = loaders.stub.read_bytes()
    parts = UnifiedKernel(stub, kernel.image, kernel.version, kernel.initrd, command_line, kernel.os_release)
    program = unified_kernel(parts, tools, work, keys)
    return BootChain({DEFAULT_PROGRAM: program}, {UNIFIED: program}, command_line)
