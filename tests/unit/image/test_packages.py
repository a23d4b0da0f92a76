from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import MalformedError, UnavailableError, UsageError
from tdxstack.image.distribution import BOOT_LOADERS, ESSENTIAL
from tdxstack.image.packages import Lock, names, select, select_locked, takes_backports
from tdxstack.image.recipe import ImageRecipe
from tdxstack.toolbox.apt import AptRoot, Deb


def recipe(**values: Any) -> ImageRecipe:
    return ImageRecipe.model_validate(values)


class Archive:
    """An apt root that has every package, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Sequence[str], bool]] = []
        self.digest = "00"

    def fetch(self, packages: Sequence[str], *, with_dependencies: bool = True, **_: object) -> list[Deb]:
        self.asked.append((packages, with_dependencies))
        split = sorted(package.replace("/", "=").partition("=")[::2] for package in packages)
        return [Deb(name, version or "1", Path(name), self.digest) for name, version in split]

    def root(self) -> AptRoot:
        archive = SimpleNamespace(distribution="debian", release_name="trixie")
        return cast(AptRoot, SimpleNamespace(archive=archive, fetch=self.fetch))


@pytest.mark.parametrize(
    ("wanted", "distribution", "release", "kernel", "backports"),
    [
        ({}, "debian", "trixie", "linux-image-cloud-amd64/trixie-backports", True),
        ({}, "debian", "testing", "linux-image-cloud-amd64", False),
        ({}, "ubuntu", "resolute", "linux-image-virtual", False),
        ({"kernel": "distribution"}, "debian", "trixie", "linux-image-cloud-amd64", False),
        ({"kernel": "backports"}, "debian", "bookworm", "linux-image-cloud-amd64/bookworm-backports", True),
        ({"kernel": {"version": "6.1-1"}}, "debian", "trixie", "linux-image-cloud-amd64=6.1-1", False),
        (
            {"kernel": {"version": "7.3-1~bpo13+1"}},
            *("debian", "trixie", "linux-image-cloud-amd64=7.3-1~bpo13+1", True),
        ),
    ],
)
def test_where_the_kernel_comes_from(
    wanted: dict[str, Any], distribution: str, release: str, kernel: str, backports: bool
) -> None:
    asked = names(recipe(**wanted), distribution, release)
    assert [name for name in asked if name.startswith("linux-image")] == [kernel]
    assert takes_backports(recipe(**wanted), distribution, release) is backports


def test_ubuntu_has_no_backported_kernel() -> None:
    with pytest.raises(UsageError, match="ubuntu has no backported kernel"):
        names(recipe(kernel="backports"), "ubuntu", "resolute")


def test_what_a_recipe_says_brings_packages() -> None:
    wanted = recipe(
        boot="uki",
        root="verity-erofs",
        packages=["nginx", "apt"],
        cloud_init={},
        guest_agent=True,
        users=[{"name": "me", "sudo": True}],
    )
    asked = names(wanted, "debian", "trixie")
    assert {"cloud-init", "qemu-guest-agent", "sudo", "nginx", "cryptsetup-bin"} <= set(asked)
    assert len(asked) == len(set(asked))


def test_a_selection_tells_essential_packages_and_loaders_apart() -> None:
    archive = Archive()
    selection = select(recipe(packages=["nginx"]), archive.root())
    assert [deb.name for deb in selection.essential] == sorted(ESSENTIAL)
    assert "nginx" in [deb.name for deb in selection.others]
    assert [deb.name for deb in selection.loaders] == sorted(BOOT_LOADERS)
    assert archive.asked[-1] == (BOOT_LOADERS, False)


def test_a_lock_has_the_same_packages_again() -> None:
    archive = Archive()
    selection = select(recipe(), archive.root())
    lock = Lock.of(selection, "debian", "trixie", 1000)
    assert Lock.parse(lock.to_json()) == lock
    assert lock.to_json() == Lock.parse(lock.to_json()).to_json()
    again = select_locked(recipe(), lock, archive.root())
    assert again.identities() == selection.identities()
    assert not archive.asked[-1][1]
    assert "dpkg=1" in archive.asked[-3][0]


def test_another_file_under_a_locked_version_is_refused() -> None:
    archive = Archive()
    lock = Lock.of(select(recipe(), archive.root()), "debian", "trixie", 1000)
    archive.digest = "11"
    with pytest.raises(UnavailableError, match="has SHA-256 11, not 00 as locked"):
        select_locked(recipe(), lock, archive.root())


def test_a_recipe_that_asks_for_more_than_the_lock_is_refused() -> None:
    archive = Archive()
    lock = Lock.of(select(recipe(), archive.root()), "debian", "trixie", 1000)
    with pytest.raises(UsageError, match="nginx"):
        select_locked(recipe(packages=["nginx"]), lock, archive.root())


def test_what_is_no_package_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "k.deb").write_bytes(b"!<arch>\n")
    with pytest.raises(UsageError, match=r"k\.deb is no Debian package"):
        select(recipe(kernel={"debs": [str(tmp_path / "k.deb")]}), Archive().root())


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"source_date_epoch": -1},
        {"source_date_epoch": "now"},
        {"others": None},
        {"others": {"x": {"version": "1"}}},
    ],
)
def test_what_is_no_lock_file_is_malformed(change: dict[str, object]) -> None:
    good = json.loads(Lock("debian", "trixie", 1, {"essential": {}, "others": {}, "loaders": {}}).to_json())
    Lock.parse(json.dumps(good).encode())
    with pytest.raises(MalformedError, match="lock file"):
        Lock.parse(json.dumps(good | change).encode())


@given(st.binary(max_size=100))
def test_any_bytes_are_a_lock_file_or_malformed(text: bytes) -> None:
    with pytest.raises(MalformedError):
        Lock.parse(text)


def test_what_a_kernel_of_the_backports_needs_comes_from_there_too() -> None:
    recipe = ImageRecipe.model_validate({"kernel": {"version": "7.3-1~bpo13+1"}})
    assert "linux-base/trixie-backports" in names(recipe, "debian", "trixie")
    stable = ImageRecipe.model_validate({"kernel": {"version": "6.12-1"}})
    assert not [name for name in names(stable, "debian", "trixie") if "backports" in name]
