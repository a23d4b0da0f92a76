"""What is pruned of a cache, and above all what is not."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tdxstack import files
from tdxstack.emulator.locate import Emulator
from tdxstack.emulator.recipe import Recipe
from tdxstack.errors import UnavailableError
from tdxstack.files import Directories
from tdxstack.image.packages import Lock
from tdxstack.machine.store import MachineState, MachineStore
from tdxstack.workflows import cache
from tdxstack.workflows.cache import Entry
from tests.unit.image.test_built import make as make_image
from tests.unit.prediction.disks import qcow2

NOW = datetime.now(UTC)


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    """A cache with something of every kind, most of it twice, in a place whose name JSON and QEMU change."""
    found = Directories(tmp_path / "é,cache", tmp_path / "data", tmp_path / "run")
    for number, (key, name) in enumerate((("aa11", "web"), ("aa22", "web"), ("bb33", "db"))):
        image = make_image(found.cache / "image", key, name)
        image.path.with_name("lock.json").write_bytes(lock_of(name).to_json())
        os.utime(image.path.with_name("manifest.json"), (number, number))
    write(found, "image/images/broken/disk.raw")
    for name in ("web", "other"):
        record = {
            "distribution_name": "debian",
            "release": "trixie",
            "build_time": 1,
            "packages": {},
            "suites": {},
            "licences": {},
            "lock": lock_of(name).to_json().decode(),
        }
        write(found, f"image/trees/{name}/tree.json", json.dumps(record))
        write(found, f"image/trees/{name}/base.tar")
    for key in ("new", "old"):
        emulator(found, key)
    write(found, "emulator/current", "new")
    write(found, "emulator/work/killed/source")
    for name in ("1" * 16, "2" * 16):
        write(found, f"toolbox/image-{name}/root/usr/bin/tool")
    write(found, "toolbox/image.json", json.dumps({"tree": f"image-{'2' * 16}"}))
    for name in ("web_1%3a2_amd64.deb", "web_1%3a1_amd64.deb", "tool_1_amd64.deb"):
        write(found, f"apt/trixie/cache/archives/{name}")
    for path in (
        *("apt/trixie/updated", "apt/trixie/state/lists/x", "apt/trixie/cache/sources/qemu.tar"),
        *("sources/qemu.tar", "collateral/a.json", "prediction/a.json", "image/install.log"),
        *("image/bases/00", "image/bases/.11.part.FAILED", "image/mkosi-packages/x", "image/work.killed/x"),
        *("firmware/.ovmf-inteltdx_2_b.lock", "firmware/ovmf-inteltdx_2_b/x", "firmware/ovmf-inteltdx_1_a/x"),
        *("mine/x", "image/notes"),
    ):
        write(found, path)
    os.utime(found.cache / "firmware/ovmf-inteltdx_1_a", (1, 1))
    return found


def lock_of(name: str) -> Lock:
    return Lock("debian", "trixie", 1, {"essential": {name: ("1:2", "00")}, "others": {}, "loaders": {}})


def emulator(directories: Directories, key: str) -> Emulator:
    place = directories.cache / "emulator" / key
    made = Emulator(place, "10.2.2", key, Recipe.load().digest, "", "", (), {}, "", 1.0)
    write(directories, f"emulator/{key}/bin/qemu-system-x86_64")
    (place / "build.json").write_bytes(made.record())
    return made


def write(directories: Directories, path: str, text: str = "x") -> Path:
    place = directories.cache / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    return place


def shown(found: list[Entry], directories: Directories) -> list[str]:
    return sorted(str(one.place.relative_to(directories.cache)) for one in found)


def pruned(directories: Directories, *, everything: bool = False, proc: Path = Path("/none")) -> list[str]:
    return shown(cache.prune(directories, NOW, everything=everything, proc=proc), directories)


SUPERSEDED = [
    "apt/trixie/cache/archives",
    "apt/trixie/cache/sources/qemu.tar",
    "emulator/old",
    "emulator/work/killed",
    "firmware/ovmf-inteltdx_1_a",
    "image/bases/.11.part.FAILED",
    "image/images/aa11",
    "image/images/broken",
    "image/trees/other",
    "image/work.killed",
    "prediction",
    "sources/qemu.tar",
    f"toolbox/image-{'1' * 16}",
]
NEEDED = [
    "apt/trixie",
    "apt/trixie/cache/archives",
    "collateral",
    "emulator/new",
    "firmware/ovmf-inteltdx_2_b",
    "image/bases/00",
    "image/images/aa22",
    "image/images/bb33",
    "image/install.log",
    "image/mkosi-packages",
    "image/trees/web",
    f"toolbox/image-{'2' * 16}",
]


def test_what_is_replaced_or_left_over_goes(directories: Directories) -> None:
    found = cache.entries(directories, NOW, Path("/none"))
    planned = cache.unneeded(found, NOW)
    assert shown(planned, directories) == SUPERSEDED
    assert pruned(directories) == SUPERSEDED
    left = cache.entries(directories, NOW, Path("/none"))
    assert shown(left, directories) == sorted([*NEEDED, "image/notes", "mine"])
    debs = [path.name for path in (directories.cache / "apt/trixie/cache/archives").iterdir()]
    assert debs == ["web_1%3a2_amd64.deb"], "a lock file names it"
    assert pruned(directories) == []


def test_everything_goes_but_what_is_not_ours(directories: Directories) -> None:
    assert pruned(directories, everything=True) == sorted([*SUPERSEDED, *NEEDED])
    left = [
        str(path.relative_to(directories.cache)) for path in directories.cache.rglob("*") if path.is_file()
    ]
    assert sorted(left) == ["emulator/current", "image/notes", "mine/x"]


def test_machines_keep_what_they_start_from(directories: Directories) -> None:
    """A disk is an overlay of an image; firmware and emulator are on the command line, one in JSON."""
    store = MachineStore(directories)
    machine = store.prepare("td")
    images = directories.cache / "image/images"
    (images / "aa11/disk.raw").write_bytes(b"raw")
    machine.disk.write_bytes(qcow2(bytes(4), backing=images / "aa11/disk.raw"))
    firmware = {"driver": "file", "filename": str(directories.cache / "firmware/ovmf-inteltdx_1_a/x")}
    tree = str(directories.cache / "image/bases/00").replace(",", ",,")
    argv = [
        str(directories.cache / "emulator/old/bin/qemu-system-x86_64"),
        json.dumps(firmware),
        f"file={tree}",
    ]
    store.save(MachineState("td", "emulated", True, 1, 1, "", argv, tpm=[f"{directories.cache}/toolbox/x"]))
    kept = ["emulator/old", "firmware/ovmf-inteltdx_1_a", "image/bases/00", "image/images/aa11"]
    found = cache.entries(directories, NOW, Path("/none"))
    assert shown([one for one in found if one.users == ("machine td",)], directories) == kept
    assert set(pruned(directories, everything=True)).isdisjoint(kept)
    store.remove("td")
    assert pruned(directories, everything=True) == kept


def test_processes_keep_what_they_have_open(directories: Directories, tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    (proc / "7/fd").mkdir(parents=True)
    (proc / "8").mkdir()
    (proc / str(os.getpid())).mkdir()
    (proc / "7/cmdline").write_bytes(f"sh\0-c\0x --in={directories.cache}/emulator/work/killed\0".encode())
    (proc / "7/fd/3").symlink_to(directories.cache / "image/images/aa11/disk.raw")
    (proc / "8/exe").symlink_to(directories.cache / f"toolbox/image-{'1' * 16}/root/lib64/ld.so")
    (proc / str(os.getpid()) / "cwd").symlink_to(directories.cache / "image/images/broken")
    kept = ["emulator/work/killed", "image/images/aa11", f"toolbox/image-{'1' * 16}"]
    assert sorted([*pruned(directories, proc=proc), *kept]) == SUPERSEDED


def test_an_image_beside_which_others_put_files_stays(directories: Directories) -> None:
    """Overlays of libvirt's machines lie beside their base."""
    write(directories, "image/images/aa11/vm-disk0.qcow2")
    assert "image/images/aa11" not in pruned(directories, everything=True)
    [one] = [one for one in cache.entries(directories, NOW) if one.place.name == "aa11"]
    assert one.users == ("file vm-disk0.qcow2",)


@pytest.mark.parametrize("path", ["image/lock", "emulator/lock", "apt/trixie/lock", "toolbox/.image.lock"])
def test_nothing_goes_while_something_is_built(directories: Directories, path: str) -> None:
    before = sorted(directories.cache.rglob("*"))
    with files.lock(directories.cache / path):
        with pytest.raises(UnavailableError, match="in use by another process"):
            pruned(directories, everything=True)
        gone = cache.unneeded(cache.entries(directories, NOW), NOW)
        assert cache.LEFT_OVER not in [one.kind for one in gone], "it may be the work of who holds the lock"
    assert sorted(set(directories.cache.rglob("*")) - {directories.cache / path}) == before
    assert "image/work.killed" in pruned(directories)


def test_what_was_used_lately_can_be_kept(directories: Directories) -> None:
    old = (NOW - timedelta(days=40)).timestamp()
    for path in (directories.cache / "image/images/aa11").iterdir():
        os.utime(path, (old, old))
    # listing reads it
    os.utime(directories.cache / "image/images/aa11/manifest.json", (NOW.timestamp(), 0))
    gone = cache.prune(directories, NOW, older_than=timedelta(days=30), proc=Path("/none"))
    assert shown(gone, directories) == ["image/images/aa11"]
    assert gone[0].used == datetime.fromtimestamp(old, UTC)
    assert gone[0].size >= 8192


def test_an_interrupted_prune_leaves_nothing_half(
    directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pruned(directories)
    monkeypatch.undo()
    assert not (directories.cache / "emulator/old").exists()
    [left] = (directories.cache / "emulator").glob("pruned.*")
    assert f"emulator/{left.name}" in pruned(directories)
    assert not left.exists()


def test_an_absent_cache_is_empty_and_stays_absent(tmp_path: Path) -> None:
    nothing = Directories(tmp_path / "cache", tmp_path / "data", tmp_path / "run")
    assert cache.entries(nothing, NOW) == cache.prune(nothing, NOW) == []
    assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_was_used_when_it_was_made(directories: Directories) -> None:
    place = directories.cache / "image/trees/empty"
    place.mkdir()
    os.utime(place, (1_700_000_000, 1_700_000_000))
    entry = next(entry for entry in cache.entries(directories, NOW) if entry.place == place)
    assert entry.used == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
