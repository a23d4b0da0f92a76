"""Which images are here, and that none is removed from under a machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tdxstack.errors import UsageError
from tdxstack.files import Directories
from tdxstack.image.built import Image, write_manifest
from tdxstack.machine.spec_file import changed_spec
from tdxstack.machine.store import MachineState, MachineStore
from tdxstack.workflows import images
from tests.unit.prediction.disks import qcow2

KEYS = ("aa11", "aa22", "bb33")


@pytest.fixture
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Directories:
    """Three built images, and the machine `td` on the first of them."""
    found = Directories(tmp_path / "cache", tmp_path / "data", tmp_path / "run")
    made = []
    for key in KEYS:
        place = found.cache / "image/images" / key
        place.mkdir(parents=True)
        (place / "disk.qcow2").write_bytes(qcow2(b"disk"))
        values: dict[str, Any] = {field.name: "" for field in dataclasses.fields(Image)}
        made.append(
            Image(
                **values
                | {"key": key, "name": "db" if key == "bb33" else "web", "path": place / "disk.qcow2"}
            )
        )
    monkeypatch.setattr("tdxstack.image.built.cached", lambda _: [one for one in made if one.path.exists()])
    store = MachineStore(found)
    machine = store.prepare("td")
    overlay = qcow2(bytes(4), backing=made[0].path)
    (machine.directory / "lower.qcow2").write_bytes(overlay)
    machine.disk.write_bytes(qcow2(bytes(4), backing=Path("lower.qcow2")))
    store.save(MachineState("td", "emulated", True, 1, 1, "", ["qemu"]))
    return found


def test_machines_are_found_through_all_overlays(directories: Directories) -> None:
    listed = images.images(directories)
    assert [(one.image.key, one.machines) for one in listed] == [
        ("aa11", ("td",)),
        ("aa22", ()),
        ("bb33", ()),
    ]
    document = listed[0].to_json()
    assert document["machines"] == ["td"]
    assert document["path"] == str(listed[0].image.path)
    disk = MachineStore(directories).files("td").disk
    assert (
        images.users(directories, disk) == images.users(directories, disk.with_name("lower.qcow2")) == ["td"]
    )


def test_keys_may_be_shortened_while_they_name_one(directories: Directories) -> None:
    assert images.find_image(directories, "bb").image.key == "bb33"
    for key, problem in (("aa", "2 images"), ("cc", "no image"), ("", "no image")):
        with pytest.raises(UsageError, match=problem) as caught:
            images.find_image(directories, key)
        assert "web (aa11), web (aa22), db (bb33)" in caught.value.hint


def test_a_name_stands_for_its_newest_image(directories: Directories) -> None:
    assert images.find_image(directories, "web").image.key == "aa22"


def test_a_name_is_a_file_or_an_image(
    directories: Directories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("bb3", "plain"):
        Path(file).write_bytes(b"")
    assert images.image_file(directories, "bb3").parent.name == "bb33"
    for name in (str(tmp_path / "x"), "disk.raw", "./bb3", "plain"):
        assert images.image_file(directories, name) == Path(name)
    with pytest.raises(UsageError, match="no image 'absent'"):
        images.image_file(directories, "absent")


def test_an_image_in_use_is_not_removed(directories: Directories) -> None:
    one = images.find_image(directories, "aa11")
    with pytest.raises(UsageError, match="in use by td") as caught:
        images.remove_image(directories, one)
    assert caught.value.hint == "run: tdx down td"
    assert one.image.path.exists()


def test_a_removed_image_is_gone_whole(directories: Directories) -> None:
    images.remove_image(directories, images.find_image(directories, "bb33"))
    assert [one.image.key for one in images.images(directories)] == ["aa11", "aa22"]
    left = {path.name for path in (directories.cache / "image").iterdir()}
    assert left == {"images", "lock"}
    assert not (directories.cache / "image/images/bb33").exists()


@pytest.fixture
def direct(tmp_path: Path) -> Directories:
    """An image beside whose disk its kernel lies."""
    found = Directories(tmp_path / "cache", tmp_path / "data", tmp_path / "run")
    place = found.cache / "image/images/dd44"
    place.mkdir(parents=True)
    values: dict[str, Any] = {field.name: "" for field in dataclasses.fields(Image)}
    files = {"disk.raw": "", "vmlinuz": "", "initrd": ""}
    values |= {
        "key": "dd44",
        "name": "direct",
        "files": files,
        "kernel_command_line": "quiet",
        "warnings": (),
    }
    for file in files:
        (place / file).write_bytes(b"")
    write_manifest(Image(**values | {"path": place / "disk.raw"}))
    return found


def test_a_machine_boots_the_kernel_beside_its_disk(direct: Directories) -> None:
    place = direct.cache / "image/images/dd44"
    expected = {
        "image": str(place / "disk.raw"),
        "direct_kernel.kernel": str(place / "vmlinuz"),
        "direct_kernel.initrd": str(place / "initrd"),
        "direct_kernel.command_line": "quiet",
    }
    for name in ("direct", "dd", str(place / "disk.raw")):
        assert images.image_fields(direct, name) == expected
    (place / "other.raw").write_bytes(b"")
    other = str(place / "other.raw")
    assert images.image_fields(direct, other) == {"image": other}
    spec = changed_spec(None, images.image_fields(direct, "direct") | {"direct_kernel.set.ro": ""})
    assert spec.direct_kernel is not None
    assert spec.direct_kernel.arguments == "quiet ro"


def test_the_image_of_a_machine_may_be_any_disk(tmp_path: Path) -> None:
    nothing = Directories(tmp_path / "cache", tmp_path / "data", tmp_path / "run")
    assert images.image_fields(nothing, "disk.qcow2") == {"image": str(Path("disk.qcow2").absolute())}
    with pytest.raises(UsageError, match="no image 'web'"):
        images.image_fields(nothing, "web")
