from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tdxstack.errors import UnavailableError
from tdxstack.image import built
from tdxstack.image.built import Image
from tdxstack.run import silent


def make(cache: Path, key: str, name: str, **more: Any) -> Image:
    directory = cache / "images" / key
    directory.mkdir(parents=True)
    with (directory / "disk.raw").open("wb") as disk:
        disk.write(b"start")
        disk.truncate(64 << 20)
        disk.seek(32 << 20)
        disk.write(b"middle")
    (directory / "lock.json").write_text("{}")
    digests = {file: built.sha256(directory / file) for file in ("disk.raw", "lock.json")}
    facts: dict[str, Any] = {
        field: "" for field in Image.__dataclass_fields__ if field not in ("path", "packages")
    }
    facts |= {"packages": {}, "suites": {}, "boot_files": {}, "files": digests, "warnings": ("slow",)}
    facts |= {"key": key, "name": name, "build_time": 1, **more}
    image = Image(path=directory / "disk.raw", **facts)
    built.write_manifest(image)
    return image


def test_what_is_written_is_loaded(tmp_path: Path) -> None:
    image = make(tmp_path, "aa", "web")
    assert built.load(image.path.parent) == image
    assert image.file("lock.json") == image.path.with_name("lock.json")
    assert image.file("vmlinuz") is None


def test_copies_are_sparse_and_have_checksums(tmp_path: Path) -> None:
    image = make(tmp_path, "aa", "web")
    written = built.export(image, tmp_path / "out", silent)
    names = ["web.raw", "web.lock.json", "web.manifest.json", "web.sha256"]
    assert [path.name for path in written] == names
    copy = tmp_path / "out/web.raw"
    assert copy.read_bytes() == image.path.read_bytes()
    assert copy.stat().st_blocks * 512 < 1 << 20
    for line in (tmp_path / "out/web.sha256").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    assert built.export(image, tmp_path / "out", silent) == written


def test_a_cache_for_a_comparison_is_kept_while_it_is_used(tmp_path: Path) -> None:
    left = tmp_path / "second.killed"
    left.mkdir()
    with built.second_cache(tmp_path, silent) as place:
        assert not left.exists()
        with built.only_builder(tmp_path, silent):
            assert place.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_copies_need_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make(tmp_path, "aa", "web")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(UnavailableError):
        built.export(image, tmp_path / "out", silent)
    assert list((tmp_path / "out").iterdir()) == []
