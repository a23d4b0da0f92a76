from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tdxstack import files
from tdxstack.errors import CommandError, MalformedError, UnavailableError
from tdxstack.firmware.keys import OwnKeys
from tdxstack.image import additions, base_tree, boot_chain, build, built, customise, disk, trees
from tdxstack.image.boot_chain import grub_config, kernel_command_line
from tdxstack.image.build import Builder
from tdxstack.image.built import Image
from tdxstack.image.disk import Tools, VerifiedRoot
from tdxstack.image.distribution import DISTRIBUTIONS, GRUB, STUB
from tdxstack.image.guest_side import GuestFile, guest_files
from tdxstack.image.initramfs import initramfs
from tdxstack.image.packages import Lock, Selection
from tdxstack.image.recipe import Format, ImageRecipe
from tdxstack.image.trees import Origin
from tdxstack.run import Report, silent
from tdxstack.toolbox.apt import AptRoot, Deb
from tdxstack.toolbox.programs import Toolbox
from tests.unit.image.test_kernel import GOOD, VERSION, write_tree


class World:
    """Stands in for the archive, the namespaces and the programs; counts how often each is asked."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cache = directory / "cache"
        self.config = GOOD
        self.distribution = "debian"
        self.kernel_digest = "aa"
        self.fails = False
        self.keys: OwnKeys | None = None
        self.updates, self.installs, self.disks, self.customised = 0, 0, 0, 0
        self.directory = directory
        monkeypatch.setattr(trees, "select", self.select)
        monkeypatch.setattr(trees, "select_locked", self.select_locked)
        monkeypatch.setattr(trees, "extract", self.extract)
        monkeypatch.setattr(base_tree, "install", self.install)
        monkeypatch.setattr(base_tree, "build_time", lambda debs: 1000)
        monkeypatch.setattr(disk, "assemble", self.assemble)
        monkeypatch.setattr(disk, "convert", self.convert)
        monkeypatch.setattr(disk, "verified_root", self.verified_root)
        monkeypatch.setattr(customise, "customise", self.customise)
        monkeypatch.setattr(boot_chain, "unified_kernel", lambda parts, *_: parts.command_line.encode())

    def apt(self) -> AptRoot:
        return cast(AptRoot, SimpleNamespace(update=self.update))

    def update(self, _report: Report) -> list[Any]:
        self.updates += 1
        return []

    def select(self, _recipe: ImageRecipe, _apt: AptRoot, _report: Report) -> Selection:
        path = self.directory / "x.deb"
        return Selection(
            (Deb("base-files", "13", path, "00"),),
            (Deb("linux", VERSION, path, self.kernel_digest),),
            (Deb("shim", "1", path, "11"),),
        )

    def select_locked(self, _recipe: ImageRecipe, lock: Lock, *_: object) -> Selection:
        def debs(group: str) -> tuple[Deb, ...]:
            entries = lock.groups[group].items()
            return tuple(Deb(name, version, self.directory, digest) for name, (version, digest) in entries)

        return Selection(debs("essential"), debs("others"), debs("loaders"))

    def install(self, essential: Sequence[Deb], others: Sequence[Deb], work: Path, **_: object) -> Path:
        self.installs += 1
        work.mkdir()
        if self.fails:
            (work / "half").write_bytes(b"done")
            raise CommandError("dpkg failed")
        return write_tree(work / "base.tar", self.config)

    def extract(self, _debs: Sequence[Deb], destination: Path) -> Path:
        for name in (DISTRIBUTIONS[self.distribution].shim, GRUB, STUB):
            path = destination / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(path.name.encode())
        return destination

    def verified_root(self, _tools: Tools, _kind: object, archive: Path, _work: Path) -> VerifiedRoot:
        return VerifiedRoot(archive, archive, hashlib.sha256(archive.read_bytes()).hexdigest())

    def assemble(
        self,
        _tools: Tools,
        root: Path | VerifiedRoot,
        esp: Mapping[str, bytes],
        work: Path,
        **_: object,
    ) -> Path:
        self.disks += 1
        path = work / "disk.raw"
        data = root.data if isinstance(root, VerifiedRoot) else root
        path.write_bytes(data.read_bytes() + b"".join(esp.values()))
        return path

    def convert(self, _tools: Tools, raw: Path, target: Path, _kind: Format) -> None:
        raw.replace(target)

    def customise(self, _recipe: ImageRecipe, root: Path, *_: object, **__: object) -> Path:
        self.customised += 1
        return root

    def build(
        self,
        recipe: Mapping[str, Any] | None = None,
        *,
        refresh: bool = False,
        lock: Lock | None = None,
        report: Report = silent,
    ) -> Image:
        builder = Builder(self.cache, cast(Toolbox, None), 0, report, self.keys)
        origin = Origin(self.distribution, "trixie", self.apt)
        return builder.build(ImageRecipe.model_validate(recipe or {}), origin, refresh=refresh, lock=lock)

    def leftovers(self) -> list[str]:
        return [path.name for path in self.cache.glob("work.*")]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_an_image_says_what_it_is_made_of(world: World) -> None:
    image = world.build()
    assert image.path.is_file()
    assert image.path.stat().st_mode & 0o222 == 0
    assert (image.name, image.format, image.boot, image.root) == ("tdx", "qcow2", "grub", "ext4")
    assert (image.distribution, image.release) == ("debian", "trixie")
    assert image.kernel_version == VERSION
    assert image.kernel_command_line.startswith(
        f"BOOT_IMAGE=/boot/vmlinuz-{VERSION} root=UUID={image.root_uuid} "
    )
    assert image.packages == {"base-files": "13", "linux": VERSION, "shim": "1"}
    assert image.boot_files[f"boot/vmlinuz-{VERSION}"] == hashlib.sha256(b"kernel").hexdigest()
    assert image.boot_files["EFI/BOOT/BOOTX64.EFI"] == hashlib.sha256(b"shimx64.efi.signed").hexdigest()
    grub = grub_config(VERSION, kernel_command_line(ImageRecipe(), "")).encode()
    assert image.boot_files["EFI/debian/grub.cfg"] == hashlib.sha256(grub).hexdigest()
    assert json.loads((image.path.parent / "manifest.json").read_text())["key"] == image.key
    assert set(image.files) == {"disk.qcow2", "lock.json", "sbom.spdx.json"}
    for name, digest in image.files.items():
        assert built.sha256(image.path.with_name(name)) == digest
    assert built.cached(world.cache) == [image]
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


def test_a_lock_brings_the_older_packages_back(world: World) -> None:
    first = world.build()
    lock = Lock.parse(first.path.with_name("lock.json").read_bytes())
    world.kernel_digest = "bb"
    world.build(refresh=True)
    assert world.build(lock=lock) == first
    shutil.rmtree(world.cache)
    again = world.build(lock=lock)
    assert (again.key, again.files) == (first.key, first.files)


def test_a_lock_brings_its_time_with_it(world: World) -> None:
    first = world.build()
    lock = Lock.parse(first.path.with_name("lock.json").read_bytes())
    later = world.build(lock=dataclasses.replace(lock, epoch=2000))
    assert (first.build_time, later.build_time) == (1000, 2000)
    assert later.key != first.key


def test_a_changed_guest_side_keeps_the_tree(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first = world.build()
    real = guest_files
    more = GuestFile("usr/lib/tdxstack/more", b"new")
    monkeypatch.setattr(additions, "guest_files", lambda *given: [*real(*given), more])
    second = world.build()
    assert second.key != first.key
    assert (world.updates, world.installs, world.disks) == (1, 1, 2)


def test_a_changed_file_keeps_the_tree(world: World) -> None:
    recipe = {"files": [{"content": "one", "target": "/etc/x"}]}
    first = world.build(recipe)
    second = world.build({"files": [{"content": "two", "target": "/etc/x"}]})
    assert second.key != first.key
    assert world.build(recipe) == first
    assert (world.updates, world.installs, world.disks) == (1, 1, 2)


def test_a_changed_script_is_run(world: World, tmp_path: Path) -> None:
    script = tmp_path / "setup.sh"
    script.write_text("true")
    first = world.build({"scripts": [str(script)]})
    assert world.customised == 1
    assert world.build({"scripts": [str(script)]}) == first
    script.write_text("false")
    assert world.build({"scripts": [str(script)]}).key != first.key
    assert (world.installs, world.customised) == (1, 2)


@pytest.mark.parametrize(
    "recipe",
    [{"packages": ["nginx"]}, {"guest_agent": True}, {"cloud_init": {}}, {"kernel": "distribution"}],
    ids=lambda recipe: next(iter(recipe)),
)
def test_other_packages_make_another_tree(world: World, recipe: dict[str, Any]) -> None:
    world.build()
    world.build(recipe)
    assert world.installs == 2


@pytest.mark.parametrize(
    "recipe",
    [
        {"kernel_options": ["quiet"]},
        {"size": "2G"},
        {"boot": "uki"},
        {"boot": "direct"},
        {"format": "raw"},
        {"name": "other"},
        {"hostname": "other"},
        {"users": [{"name": "me"}]},
    ],
    ids=lambda recipe: next(iter(recipe)),
)
def test_other_images_share_the_tree(world: World, recipe: dict[str, Any]) -> None:
    first = world.build()
    assert world.build(recipe).key != first.key
    assert (world.installs, world.disks) == (1, 2)


def test_a_verified_root_is_named_on_the_command_line(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = SimpleNamespace(version=VERSION, image=b"k", initrd=b"i", os_release=b"", warnings=("slow",))
    monkeypatch.setattr(build, "guest_kernel", lambda *_: kernel)
    image = world.build({"boot": "uki", "root": "verity-erofs"})
    assert image.root_hash
    assert image.kernel_command_line.startswith(f"roothash={image.root_hash} ")
    assert image.file("kernel.efi") == image.path.with_name("kernel.efi")
    assert image.warnings == ("slow",)


def test_the_signer_tells_images_apart(world: World, tmp_path: Path) -> None:
    unsigned = world.build({"boot": "uki"})
    (tmp_path / "db.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    world.keys = OwnKeys(tmp_path, {})
    signed = world.build({"boot": "uki"})
    assert unsigned.signed_by == ""
    assert signed.signed_by == hashlib.sha256(bytes(3)).hexdigest()
    assert signed.key != unsigned.key
    assert world.build().signed_by == ""


def test_a_failed_installation_leaves_nothing(world: World) -> None:
    world.fails = True
    with pytest.raises(CommandError):
        world.build()
    assert world.leftovers() == []
    assert built.cached(world.cache) == []
    world.fails = False
    assert world.build().path.is_file()


def test_what_a_killed_build_left_is_removed(world: World) -> None:
    left = world.cache / "work.killed/tree"
    left.mkdir(parents=True)
    (left / "file").write_bytes(b"")
    world.build()
    assert world.leftovers() == []


def test_a_half_written_tree_is_made_again(world: World) -> None:
    image = world.build()
    (tree,) = (world.cache / "trees").iterdir()
    (tree / "tree.json").unlink()
    shutil.rmtree(image.path.parent)
    assert world.build() == image
    assert world.installs == 2


def test_a_damaged_tree_is_named(world: World) -> None:
    world.build()
    (tree,) = (world.cache / "trees").iterdir()
    (tree / "tree.json").write_text("{")
    with pytest.raises(MalformedError, match=tree.name):
        world.build()


def test_another_build_is_waited_for_and_said_to_be(world: World) -> None:
    said: list[str] = []

    def report(text: str, fraction: float | None = None) -> None:
        said.append(text)

    world.cache.mkdir()
    with files.lock(world.cache / "lock"), pytest.MonkeyPatch.context() as patch:
        # the wait itself would never end: both builds are this process
        patch.setattr(files, "lock", lambda path, **_: _Free())
        world.build(report=report)
    assert said[0] == "waiting for another build of an image"


class _Free:
    def __enter__(self) -> int:
        return 0

    def __exit__(self, *_: object) -> None:
        pass


def test_an_unsuitable_kernel_makes_no_image(world: World) -> None:
    world.config = GOOD.replace("CONFIG_INTEL_TDX_GUEST=y", "# CONFIG_INTEL_TDX_GUEST is not set")
    with pytest.raises(UnavailableError, match="CONFIG_INTEL_TDX_GUEST"):
        world.build()
    assert built.cached(world.cache) == []
    assert world.leftovers() == []


def test_ubuntu_has_its_own_boot_files(world: World) -> None:
    debian = world.build()
    world.distribution = "ubuntu"
    ubuntu = world.build()
    assert ubuntu.key != debian.key
    assert (
        ubuntu.boot_files["EFI/BOOT/BOOTX64.EFI"] == hashlib.sha256(b"shimx64.efi.signed.latest").hexdigest()
    )
    assert "EFI/ubuntu/grub.cfg" in ubuntu.boot_files
    assert "EFI/debian/grub.cfg" not in ubuntu.boot_files
    initrd = f"boot/initrd.img-{VERSION}"
    made = initramfs(b"init", [("virtio_blk.ko", b"module")])
    assert ubuntu.boot_files[initrd] == hashlib.sha256(made).hexdigest()


def test_too_little_space_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**8))
    with pytest.raises(UnavailableError, match=r"0\.1 GB free"):
        world.build()
    assert world.installs == 0


def test_an_image_of_another_version_is_not_listed(world: World) -> None:
    image = world.build()
    manifest = image.path.parent / "manifest.json"
    manifest.write_text('{"key": "x"}')
    assert built.cached(world.cache) == []
    with pytest.raises(MalformedError, match=image.key):
        world.build()
