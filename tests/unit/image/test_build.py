from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import lzma
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tdxstack.errors import CommandError, MalformedError, UnavailableError
from tdxstack.image import base_tree, build, disk, kernel, recipe
from tdxstack.image.guest_side import GuestFile
from tdxstack.image.initramfs import initramfs
from tdxstack.run import Report, silent
from tdxstack.toolbox.apt import AptRoot, Deb
from tdxstack.toolbox.programs import Toolbox

VERSION = "7.3.4"
CONFIG = "".join(f"CONFIG_{name}=y\n" for name in kernel.REQUIRED)
MODULES = f"usr/lib/modules/{VERSION}"


def archive(config: str) -> bytes:
    """A tree with just what an image's boot files are made of."""
    contents = {
        f"boot/vmlinuz-{VERSION}": b"kernel",
        f"boot/config-{VERSION}": config.encode(),
        f"{MODULES}/modules.dep": b"kernel/virtio_blk.ko.xz:\n",
        f"{MODULES}/kernel/virtio_blk.ko.xz": lzma.compress(b"module"),
        "usr/libexec/tiny-initramfs/init-static": b"init",
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tree:
        for name, data in contents.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            tree.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class World:
    """Stands in for the archive, the namespaces and the programs; counts how often each is asked."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cache = directory / "cache"
        self.config = CONFIG
        self.distribution = "debian"
        self.kernel_digest = "aa"
        self.fails = False
        self.updates, self.installs, self.disks = 0, 0, 0
        self.directory = directory
        monkeypatch.setattr(base_tree, "fetch", self.fetch)
        monkeypatch.setattr(base_tree, "install", self.install)
        monkeypatch.setattr(base_tree, "build_time", lambda debs: 1000)
        monkeypatch.setattr(build, "extract", self.extract)
        monkeypatch.setattr(disk, "assemble", self.assemble)

    def apt(self) -> AptRoot:
        archive_ = SimpleNamespace(distribution=self.distribution)
        root = SimpleNamespace(archive=archive_, update=self.update, fetch=lambda *_, **__: [])
        return cast(AptRoot, root)

    def update(self, _report: Report) -> list[Any]:
        self.updates += 1
        return []

    def fetch(self, _apt: AptRoot, _report: Report) -> tuple[list[Deb], list[Deb]]:
        path = self.directory / "x.deb"
        return [Deb("base-files", "13", path, "00")], [Deb("linux", VERSION, path, self.kernel_digest)]

    def install(self, essential: Sequence[Deb], others: Sequence[Deb], work: Path, **_: object) -> Path:
        self.installs += 1
        work.mkdir()
        if self.fails:
            (work / "half").write_bytes(b"done")
            raise CommandError("dpkg failed")
        (work / "base.tar").write_bytes(archive(self.config))
        return work / "base.tar"

    def extract(self, _debs: Sequence[Deb], destination: Path) -> Path:
        for name in (recipe.DISTRIBUTIONS[self.distribution].shim, recipe.GRUB):
            path = destination / name
            path.parent.mkdir(parents=True)
            path.write_bytes(path.name.encode())
        return destination

    def assemble(
        self, _toolbox: Toolbox, root: Path, esp: Mapping[str, bytes], work: Path, **_: object
    ) -> Path:
        self.disks += 1
        path = work / "disk.qcow2"
        path.write_bytes(root.read_bytes() + b"".join(esp.values()))
        return path

    def build(self, *, refresh: bool = False, report: Report = silent) -> build.Image:
        toolbox = cast(Toolbox, None)
        return build.build(self.cache, self.apt, toolbox, uid=0, refresh=refresh, report=report)

    def leftovers(self) -> list[str]:
        return [path.name for path in self.cache.glob("work.*")]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_an_image_says_what_it_is_made_of(world: World) -> None:
    image = world.build()
    assert image.path.is_file()
    assert image.path.stat().st_mode & 0o222 == 0
    assert image.format == "qcow2"
    assert image.kernel_version == VERSION
    assert image.kernel_command_line.startswith(
        f"BOOT_IMAGE=/boot/vmlinuz-{VERSION} root=UUID={image.root_uuid} "
    )
    assert image.packages == {"base-files": "13", "linux": VERSION}
    assert image.boot_files[f"boot/vmlinuz-{VERSION}"] == hashlib.sha256(b"kernel").hexdigest()
    assert image.boot_files["EFI/BOOT/BOOTX64.EFI"] == hashlib.sha256(b"shimx64.efi.signed").hexdigest()
    grub = recipe.grub_config(VERSION).encode()
    assert image.boot_files["EFI/debian/grub.cfg"] == hashlib.sha256(grub).hexdigest()
    assert json.loads((image.path.parent / "manifest.json").read_text())["key"] == image.key
    assert build.cached(world.cache) == [image]
    assert world.leftovers() == []


def test_the_second_time_nothing_is_done(world: World) -> None:
    first = world.build()
    assert world.build() == first
    assert (world.updates, world.installs, world.disks) == (1, 1, 1)


def test_refresh_finds_the_same_packages(world: World) -> None:
    first = world.build()
    assert world.build(refresh=True) == first
    assert (world.updates, world.installs, world.disks) == (2, 1, 1)


def test_refresh_finds_a_changed_package(world: World) -> None:
    first = world.build()
    world.kernel_digest = "bb"
    second = world.build(refresh=True)
    assert second.key != first.key
    assert first.path.is_file()
    assert (world.installs, world.disks) == (2, 2)


def test_a_changed_guest_side_keeps_the_tree(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first = world.build()
    monkeypatch.setattr(
        build, "guest_files", lambda *_: [GuestFile("usr/lib/tdxstack/tdx-guest.pyz", b"new")]
    )
    second = world.build()
    assert second.key != first.key
    assert (world.updates, world.installs, world.disks) == (1, 1, 2)


@pytest.mark.parametrize("name", ["VERSION", "SYSTEM"])
def test_a_changed_recipe_makes_another_tree(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    first = world.build()
    monkeypatch.setattr(recipe, name, 99 if name == "VERSION" else ("other",))
    assert world.build().key != first.key
    assert world.installs == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KERNEL_OPTIONS", ("ro",)),
        ("DISK_SIZE", 1 << 30),
        ("ESP_VOLUME_ID", "12345678"),
    ],
)
def test_a_changed_image_recipe_keeps_the_tree(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    first = world.build()
    monkeypatch.setattr(recipe, name, value)
    assert world.build().key != first.key
    assert (world.installs, world.disks) == (1, 2)


def test_changed_modules_keep_the_tree(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first = world.build()
    changed = dataclasses.replace(recipe.DISTRIBUTIONS["debian"], initramfs_modules=())
    monkeypatch.setitem(recipe.DISTRIBUTIONS, "debian", changed)
    assert world.build().key != first.key
    assert (world.installs, world.disks) == (1, 2)


def test_a_failed_installation_leaves_nothing(world: World) -> None:
    world.fails = True
    with pytest.raises(CommandError):
        world.build()
    assert world.leftovers() == []
    assert build.cached(world.cache) == []
    world.fails = False
    assert world.build().path.is_file()


def test_what_a_killed_build_left_is_removed(world: World) -> None:
    left = world.cache / "work.killed/tree"
    left.mkdir(parents=True)
    (left / "file").write_bytes(b"")
    world.build()
    assert world.leftovers() == []


def test_an_unsuitable_kernel_makes_no_image(world: World) -> None:
    world.config = CONFIG.replace("CONFIG_TSM_MEASUREMENTS=y", "# CONFIG_TSM_MEASUREMENTS is not set")
    with pytest.raises(UnavailableError, match="CONFIG_TSM_MEASUREMENTS"):
        world.build()
    assert build.cached(world.cache) == []
    assert world.leftovers() == []


def test_ubuntu_has_its_own_boot_files(world: World) -> None:
    debian = world.build()
    world.distribution = "ubuntu"
    ubuntu = world.build(refresh=True)
    assert ubuntu.key != debian.key
    assert (
        ubuntu.boot_files["EFI/BOOT/BOOTX64.EFI"] == hashlib.sha256(b"shimx64.efi.signed.latest").hexdigest()
    )
    assert "EFI/ubuntu/grub.cfg" in ubuntu.boot_files
    assert "EFI/debian/grub.cfg" not in ubuntu.boot_files
    initrd = f"boot/initrd.img-{VERSION}"
    assert ubuntu.boot_files[initrd] == hashlib.sha256(initramfs(b"init", [])).hexdigest()
    assert ubuntu.boot_files[initrd] != debian.boot_files[initrd]


def test_the_newest_tree_is_used_with_the_recipe_that_made_it(world: World) -> None:
    world.distribution = "ubuntu"
    ubuntu = world.build()
    assert world.build() == ubuntu
    assert (world.updates, world.installs, world.disks) == (1, 1, 1)


def test_too_little_space_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**8))
    with pytest.raises(UnavailableError, match=r"0\.1 GB free"):
        world.build()
    assert world.installs == 0


def test_an_image_of_another_version_is_not_listed(world: World) -> None:
    image = world.build()
    manifest = image.path.parent / "manifest.json"
    manifest.write_text('{"key": "x"}')
    assert build.cached(world.cache) == []
    with pytest.raises(MalformedError, match=image.key):
        world.build()
