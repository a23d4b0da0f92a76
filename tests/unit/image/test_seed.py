from __future__ import annotations

from pathlib import Path

import pytest

from tdxstack.errors import CommandError
from tdxstack.image.disk import Tools
from tdxstack.image.seed import seed_disk
from tdxstack.run import Completed
from tests.unit.image.test_disk import CALLS, Recorded, tools

__all__ = ["tools"]


class Making(Recorded):
    """Makes the file that mkfs.vfat would."""

    def run(self, name: str, *arguments: str | Path) -> Completed:
        if name == "mkfs.vfat":
            Path(str(arguments[-2])).write_bytes(b"fat")
        return Recorded.run(self, name, *arguments)


def test_a_disk_is_made_and_filled(tools: Tools, tmp_path: Path) -> None:
    seed_disk(Making(tools.toolbox, 0), {"user-data": b"x", "meta-data": b"y"}, tmp_path / "seed.img")
    assert (tmp_path / "seed.img").read_bytes() == b"fat"
    assert (tmp_path / "seed.img").stat().st_mode & 0o077 == 0
    assert [call[0] for call in CALLS] == ["mkfs.vfat", "mcopy", "mcopy"]
    assert "CIDATA" in CALLS[0]
    assert list(tmp_path.iterdir()) == [tmp_path / "seed.img"]


def test_a_failure_leaves_what_was_there(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "seed.img").write_bytes(b"old")

    def fail(*_: object) -> None:
        raise CommandError("mcopy failed")

    monkeypatch.setattr("tdxstack.image.seed.fill_fat", fail)
    with pytest.raises(CommandError):
        seed_disk(tools, {"user-data": b"x"}, tmp_path / "seed.img")
    assert (tmp_path / "seed.img").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "seed.img"]
