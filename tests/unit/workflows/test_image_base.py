from __future__ import annotations

import hashlib
from pathlib import Path
from typing import cast

import pytest

from tdxstack.errors import UnavailableError, UsageError
from tdxstack.image import mkosi
from tdxstack.image.guest_side import GuestFile
from tdxstack.image.recipe import Base, ImageRecipe, Mkosi
from tdxstack.run import Argv, Completed, silent
from tdxstack.toolbox.programs import Toolbox
from tdxstack.workflows import image_base
from tdxstack.workflows.image_base import build_on_base, debugfs_commands
from tests.unit.prediction import disks


def test_directories_are_made_and_files_replaced() -> None:
    files = [GuestFile("etc/hostname", b"x"), GuestFile('opt/a b/"c"', b"y", 0o600), GuestFile("opt/d", b"z")]
    present = {"etc", "etc/hostname"}
    assert list(debugfs_commands(files, Path("/my work"), present)) == [
        'rm "/etc/hostname"',
        'write "/my work/0" "/etc/hostname"',
        'set_inode_field "/etc/hostname" mode 0100644',
        'set_inode_field "/etc/hostname" uid 0',
        'set_inode_field "/etc/hostname" gid 0',
        'mkdir "/opt"',
        'mkdir "/opt/a b"',
        'write "/my work/1" "/opt/a b/""c"""',
        'set_inode_field "/opt/a b/""c""" mode 0100600',
        'set_inode_field "/opt/a b/""c""" uid 0',
        'set_inode_field "/opt/a b/""c""" gid 0',
        'write "/my work/2" "/opt/d"',
        'set_inode_field "/opt/d" mode 0100644',
        'set_inode_field "/opt/d" uid 0',
        'set_inode_field "/opt/d" gid 0',
    ]


def test_links_are_made() -> None:
    files = [GuestFile("etc/units/x", link="/etc/x")]
    assert list(debugfs_commands(files, Path("/work"), {"etc", "etc/units"})) == [
        'symlink "/etc/units/x" /etc/x'
    ]


def build(base: Base, cache: Path) -> None:
    build_on_base(ImageRecipe(base=base), base, cache, cast(Toolbox, None), "", silent)


def test_another_file_than_the_recipe_means_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cloud.img").write_bytes(b"other")
    with pytest.raises(UsageError, match=f"has SHA-256 {hashlib.sha256(b'other').hexdigest()}, not 00"):
        image = {"image": str(tmp_path / "cloud.img"), "sha256": "0" * 64}
        build(Base.model_validate(image), tmp_path / "cache")


def test_what_mkosi_makes_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def mkosi_build(wanted: Mkosi, sources: str, *_: object, **__: object) -> Path:
        made.append(wanted.release)
        (tmp_path / "base.raw").write_bytes(b"disk")
        return tmp_path / "base.raw"

    monkeypatch.setattr(mkosi, "build", mkosi_build)
    monkeypatch.setattr(image_base, "_make", lambda *_: (_ for _ in ()).throw(UsageError("enough")))
    wanted = {"distribution": "fedora", "packages": ["systemd"]}
    for release in ("42", "42", "43"):
        base = Base.model_validate({"mkosi": wanted | {"release": release}})
        with pytest.raises(UsageError, match="enough"):
            build(base, tmp_path / "cache")
    assert made == ["42", "43"]
    assert [path.suffix for path in (tmp_path / "cache/bases").iterdir()] == [".raw", ".raw"]


@pytest.mark.parametrize(
    "image",
    [disks.qcow2(b"x", backing=Path("/etc/shadow")), disks.qcow2(b"x", features=4)],
    ids=["overlay", "external data"],
)
def test_a_download_takes_in_no_file_of_the_host(
    image: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(argv: Argv, **_: object) -> Completed:
        Path(list(argv)[3]).write_bytes(image)
        return Completed(tuple(map(str, argv)), 0, b"", b"")

    monkeypatch.setattr(image_base, "run", download)
    base = Base(url="https://x.invalid/y", sha256=hashlib.sha256(image).hexdigest())
    with pytest.raises(UsageError, match="goes on in another file"):
        build(base, tmp_path / "cache")
    assert list((tmp_path / "cache/bases").iterdir()) == []


def test_an_address_that_does_not_answer_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(argv: Argv, **_: object) -> Completed:
        Path(list(argv)[3]).write_bytes(b"half")
        Path(f"{list(argv)[3]}.FAILED").write_bytes(b"other")
        return Completed(tuple(map(str, argv)), 100, b"", b"E: Failed to fetch\n")

    monkeypatch.setattr(image_base, "run", fail)
    with pytest.raises(UnavailableError, match=r"https://x\.invalid/y cannot be had: E: Failed to fetch"):
        build(Base(url="https://x.invalid/y", sha256="0" * 64), tmp_path / "cache")
    assert list((tmp_path / "cache/bases").iterdir()) == []
