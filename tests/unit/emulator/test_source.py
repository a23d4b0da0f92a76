from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tdxstack.emulator import source
from tdxstack.emulator.recipe import Recipe
from tdxstack.errors import UnavailableError, UsageError
from tdxstack.run import Report, silent
from tdxstack.toolbox.apt import AptRoot, SourceFile
from tdxstack.toolbox.archive import Archive, Mirror

from .conftest import NOW


class FakeApt(AptRoot):
    """An apt root whose archive is a dictionary."""

    def __init__(self, directory: Path, files: dict[str, bytes]) -> None:
        archive = Archive("debian", "bookworm", Mirror("copy:/nowhere", Path("/key")), None)
        super().__init__(directory, archive, ["trixie"], now=NOW)
        self.files = files
        self.fetched: list[str] = []

    def fetch_source(self, package: str, *, report: Report = silent) -> list[SourceFile]:
        return [
            SourceFile(name, self.directory / name, hashlib.sha256(data).hexdigest())
            for name, data in self.files.items()
        ]

    def fetch_file(self, path: str, sha256: str, destination: Path, *, report: Report = silent) -> None:
        self.fetched.append(path)
        if path not in self.files:
            raise UnavailableError("404  Not Found")
        destination.write_bytes(self.files[path])


def test_the_archives_source_package(tmp_path: Path) -> None:
    apt = FakeApt(tmp_path, {"qemu_10.0.13+ds.orig-extra.tar.xz": b"", "qemu_10.0.13+ds.orig.tar.xz": b"x"})
    found = source.archive_source(apt)
    assert (found.version, found.origin) == ("10.0.13", "source package of trixie")
    assert found.path.name == "qemu_10.0.13+ds.orig.tar.xz"
    with pytest.raises(UnavailableError, match="no upstream tarball"):
        source.archive_source(FakeApt(tmp_path, {"qemu_10.0.13.dsc": b""}))


def test_a_pinned_release_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "qemu_10.2.9+ds.orig.tar.xz"
    monkeypatch.setattr(source, "PINNED", {"10.2.9": (name, hashlib.sha256(b"x").hexdigest())})
    apt = FakeApt(tmp_path, {f"pool/main/q/qemu/{name}": b"x"})
    first = source.pinned_source("10.2.9", apt, tmp_path / "sources")
    assert first.path.read_bytes() == b"x"
    assert source.pinned_source("10.2.9", apt, tmp_path / "sources") == first
    assert len(apt.fetched) == 1
    first.path.write_bytes(b"y")
    source.pinned_source("10.2.9", apt, tmp_path / "sources")
    assert len(apt.fetched) == 2, "a damaged file is fetched again"
    apt.files.clear()
    first.path.unlink()
    with pytest.raises(UnavailableError, match=r"10\.2\.9 could not be had.*404") as caught:
        source.pinned_source("10.2.9", apt, tmp_path / "sources")
    assert "--source" in caught.value.hint
    with pytest.raises(UsageError, match=r"QEMU 9\.0\.0 .* 10\.2\.9"):
        source.pinned_source("9.0.0", apt, tmp_path / "sources")


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("qemu-10.2.2.tar.xz", "10.2.2"),
        ("qemu_10.0.13+ds.orig.tar.xz", "10.0.13"),
        ("qemu-11.0.0-rc1.tar.bz2", "11.0.0-rc1"),
        ("mine.tar.gz", ""),
    ],
)
def test_a_file_of_the_users(tmp_path: Path, name: str, version: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    found = source.local_source(tmp_path / name)
    assert (found.version, found.sha256) == (version, hashlib.sha256(b"x").hexdigest())
    with pytest.raises(UnavailableError, match=r"absent.* cannot be read: No such file"):
        source.local_source(tmp_path / "absent.tar.xz")


def test_every_pin_is_whole() -> None:
    for version, (name, sha256) in source.PINNED.items():
        match = source._NAME.fullmatch(name)
        assert match is not None
        assert match["version"] == version
        assert len(bytes.fromhex(sha256)) == 32


def test_the_key_stands_for_everything(tmp_path: Path) -> None:
    (tmp_path / "series").write_text("b.patch # why\n\n# c.patch\na.patch\n")
    for name in ("a", "b"):
        (tmp_path / f"{name}.patch").write_text(name)
    recipe = Recipe.load(tmp_path)
    assert [patch.name for patch in recipe.patches] == ["b.patch", "a.patch"], "in the order of the series"
    keys = {recipe.key("00"), recipe.key("01")}
    (tmp_path / "series").write_text("a.patch\nb.patch\n")
    keys.add(Recipe.load(tmp_path).key("00"))
    (tmp_path / "a.patch").write_text("other")
    keys.add(Recipe.load(tmp_path).key("00"))
    assert len(keys) == 4
    assert all(len(key) == 32 for key in keys)
    with pytest.raises(UnavailableError, match="series is missing"):
        Recipe.load(tmp_path / "absent")
