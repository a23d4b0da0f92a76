from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from tdxstack.image import boot_chain
from tdxstack.image.boot_chain import BootChain, Loaders, grub_config, kernel_command_line
from tdxstack.image.disk import ROOT_UUID, Tools
from tdxstack.image.distribution import DISTRIBUTIONS
from tdxstack.image.kernel import GuestKernel
from tdxstack.image.recipe import ImageRecipe
from tdxstack.image.unified_kernel import UnifiedKernel
from tdxstack.prediction.grub.files import Volume
from tdxstack.prediction.grub.follow import follow

KERNEL = GuestKernel("7.3.4", b"kernel", b"initrd", b"ID=debian\n", ())
OPTIONS = "rw console=ttyS0,115200 net.ifnames=0 systemd.show_status=1 systemd.log_level=notice"
ROOT = "root=UUID=7c1b4f4e-2d7a-4c0b-9d0e-7464782d3034"


def made(tmp_path: Path, distribution: str = "debian", root_hash: str = "", **recipe: Any) -> BootChain:
    loaders = Loaders(tmp_path / "shim", tmp_path / "grub", tmp_path / "stub")
    for path in (loaders.shim, loaders.grub, loaders.stub):
        path.write_bytes(path.name.encode())
    parts = (ImageRecipe.model_validate(recipe), DISTRIBUTIONS[distribution], KERNEL, loaders, root_hash)
    return boot_chain.boot_chain(*parts, cast(Tools, None), tmp_path / "work", None)


def test_grub_configuration() -> None:
    assert grub_config("7.3.4", kernel_command_line(ImageRecipe(), "")) == (
        "search --no-floppy --fs-uuid --set=root 7c1b4f4e-2d7a-4c0b-9d0e-7464782d3034\n"
        f"linux /boot/vmlinuz-7.3.4 {ROOT} {OPTIONS}\n"
        "initrd /boot/initrd.img-7.3.4\n"
        "boot\n"
    )


@pytest.mark.parametrize(("distribution", "directory"), [("debian", "EFI/debian"), ("ubuntu", "EFI/ubuntu")])
def test_shim_and_grub(tmp_path: Path, distribution: str, directory: str) -> None:
    chain = made(tmp_path, distribution)
    assert set(chain.esp) == {"EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/grubx64.efi", f"{directory}/grub.cfg"}
    assert chain.esp["EFI/BOOT/BOOTX64.EFI"] == b"shim"
    assert chain.command_line == f"BOOT_IMAGE=/boot/vmlinuz-7.3.4 {ROOT} {OPTIONS}"
    assert chain.beside == {}


def test_grub_passes_every_option_on_as_it_is(tmp_path: Path) -> None:
    options = ["a;halt", "b=$prefix", "{c}", "#d", "e*f", "g&h", "x=1,2", "~i", "[j]"]
    chain = made(tmp_path, kernel_options=options)

    class Disk:
        def read(self, path: str) -> bytes | None:
            return b"file" if path.startswith("/boot/") else chain.esp.get(path[1:])

        def is_directory(self, path: str) -> bool:
            return False

    disk = Volume("hd0,gpt1", Disk(), str(ROOT_UUID))
    boot = follow(disk, "/EFI/debian/grub.cfg", [disk], secure_boot=True)
    assert boot.command_line == chain.command_line
    assert boot.command_line.endswith(f" {' '.join(options)}")


def test_direct_kernels_lie_beside_the_disk(tmp_path: Path) -> None:
    chain = made(tmp_path, boot="direct", kernel_options="panic=1")
    assert chain.esp == {}
    assert chain.beside == {"vmlinuz": b"kernel", "initrd": b"initrd"}
    assert chain.command_line == f"{ROOT} {OPTIONS} panic=1"


def test_a_unified_kernel_has_the_root_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[UnifiedKernel] = []

    def unified(parts: UnifiedKernel, *_: object) -> bytes:
        seen.append(parts)
        return b"unified"

    monkeypatch.setattr(boot_chain, "unified_kernel", unified)
    chain = made(tmp_path, root_hash="ab" * 32, boot="uki", root="verity-erofs")
    assert chain.esp == {"EFI/BOOT/BOOTX64.EFI": b"unified"}
    assert chain.beside == {"kernel.efi": b"unified"}
    assert seen[0].command_line == chain.command_line == f"roothash={'ab' * 32} {OPTIONS}"
    assert (seen[0].stub, seen[0].kernel, seen[0].initrd) == (b"stub", b"kernel", b"initrd")
