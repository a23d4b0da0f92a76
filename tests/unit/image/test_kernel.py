from __future__ import annotations

import io
import lzma
import tarfile
from pathlib import Path

import pytest

from tdxstack.errors import MalformedError, UnavailableError
from tdxstack.image import kernel
from tdxstack.image.initramfs import initramfs
from tdxstack.image.recipe import ImageRecipe

ALL = [*kernel.REQUIRED, *kernel.WANTED]
GOOD = "".join(f"CONFIG_{name}={'m' if index % 2 else 'y'}\n" for index, name in enumerate(ALL))
VERSION = "7.3.4"
MODULES = f"usr/lib/modules/{VERSION}"


def write_tree(path: Path, config: str = GOOD, versions: tuple[str, ...] = (VERSION,)) -> Path:
    """A tree with just what an image's boot files are made of."""
    contents = {
        f"{MODULES}/modules.dep": b"kernel/virtio_blk.ko.xz:\n",
        f"{MODULES}/modules.builtin": b"kernel/fs/ext4/ext4.ko\nkernel/virtio_pci.ko\n",
        f"{MODULES}/kernel/virtio_blk.ko.xz": lzma.compress(b"module"),
        "usr/libexec/tiny-initramfs/init-static": b"init",
        "usr/lib/os-release": b"ID=debian\n",
    }
    for version in versions:
        contents |= {f"boot/vmlinuz-{version}": b"kernel", f"boot/config-{version}": config.encode()}
    with tarfile.open(path, "w") as tree:
        for name, data in contents.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            tree.addfile(info, io.BytesIO(data))
    return path


def test_a_kernel_with_everything_is_accepted() -> None:
    assert (
        kernel.check("7.3.4", "# comment\n" + GOOD + '# CONFIG_X is not set\nCONFIG_LOCALVERSION=""\n') == ()
    )


def without(name: str) -> str:
    return "".join(line for line in GOOD.splitlines(True) if not line.startswith(f"CONFIG_{name}="))


@pytest.mark.parametrize("name", kernel.REQUIRED)
@pytest.mark.parametrize("instead", ["", "# CONFIG_{} is not set\n", "CONFIG_{}=n\n", "#CONFIG_{}=y\n"])
def test_a_kernel_that_cannot_be_a_guest_is_refused(name: str, instead: str) -> None:
    with pytest.raises(UnavailableError) as caught:
        kernel.check("6.12.0", without(name) + instead.format(name))
    assert "6.12.0" in caught.value.message
    assert f"CONFIG_{name}" in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", kernel.WANTED)
def test_what_a_guest_will_not_be_able_to_do_is_told(name: str) -> None:
    (warning,) = kernel.check("6.12.0", without(name))
    assert "6.12.0" in warning
    assert f"CONFIG_{name}" in warning


def test_all_that_is_missing_is_named() -> None:
    with pytest.raises(UnavailableError) as caught:
        kernel.check("5.10", "")
    for name in kernel.REQUIRED:
        assert name in caught.value.message


def test_options() -> None:
    config = 'CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="x y"\n'
    assert kernel.options(config) == {"A": "y", "C": '"x y"'}


def test_the_kernel_of_a_tree(tmp_path: Path) -> None:
    found = kernel.guest_kernel(ImageRecipe(), write_tree(tmp_path / "tree.tar"), bytes)
    assert (found.version, found.image, found.os_release) == (VERSION, b"kernel", b"ID=debian\n")
    assert found.initrd == initramfs(b"init", [("virtio_blk.ko", b"module")])
    assert found.warnings == ()


@pytest.mark.parametrize("versions", [(), (VERSION, "6.1")])
def test_there_must_be_one_kernel(tmp_path: Path, versions: tuple[str, ...]) -> None:
    with pytest.raises(MalformedError, match=f"{len(versions)} kernels"):
        kernel.guest_kernel(ImageRecipe(), write_tree(tmp_path / "tree.tar", versions=versions), bytes)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    recipe = ImageRecipe.model_validate({"boot": "uki", "root": "verity-ext4"})
    with pytest.raises(MalformedError, match="dm_verity"):
        kernel.guest_kernel(recipe, write_tree(tmp_path / "tree.tar"), bytes)
