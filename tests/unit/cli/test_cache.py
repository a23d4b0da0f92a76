"""`tdx cache`, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tdxstack.cli import tdx


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tarball in the cache, which no build needs any more."""
    for name in ("CACHE", "DATA"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))
    path = tmp_path / "CACHE/tdxstack/sources/qemu.tar.xz"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(3 << 20))
    return path


def run(*words: str) -> Result:
    return CliRunner().invoke(tdx, ["cache", *words])


def test_what_is_there_is_listed_and_deleted(source: Path) -> None:
    listed = run("list").output.splitlines()
    assert listed[0].split() == ["KIND", "NAME", "SIZE", "UNUSED", "FOR", "KEPT", "FOR"]
    assert listed[1].split() == ["source", "qemu.tar.xz", "3.0", "MiB", "0", "min", "-"]
    assert listed[-1] == f"3.0 MiB in {source.parents[1]}"
    [entry] = json.loads(run("list", "--json").output)["entries"]
    assert (entry["path"], entry["kind"]) == (str(source), "source")
    assert (entry["needed"], entry["users"]) == (None, [])
    assert run("prune", "--older-than", "2 days").output == "nothing to delete\n"
    assert run("prune", "--dry-run").output.splitlines()[0] == "would delete source qemu.tar.xz, 3.0 MiB"
    assert json.loads(run("prune", "--dry-run", "--json").output)["would_delete"] == [entry]
    assert source.exists()
    assert json.loads(run("prune", "--json").output) == {"deleted": [entry], "size": entry["size"]}
    assert not source.exists()


def test_an_age_that_is_none_is_refused(source: Path) -> None:
    done = run("prune", "--older-than", "soon")
    assert done.exit_code == 2
    assert "'soon' is no duration such as '30 days' or '12 hours'" in done.output
    assert source.exists()
