"""Published TDX modules: our table against values that others have computed, and Intel's mapping file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tdxstack.host.module import Releases, parse_mapping, version_key

VECTORS = Path(__file__).parents[3] / "shared/vectors"
BINARIES = "intel+confidential-computing.tdx.tdx-module.binaries"


def read(name: str) -> bytes:
    path = VECTORS / name
    if not path.is_file():
        pytest.skip("no public vectors beside this checkout")
    return path.read_bytes()


def test_the_mrseam_of_each_release() -> None:
    table = json.loads(read("_derived/mrseam.json"))
    ours = {release.mrseam.hex(): release.version for release in Releases.load().releases}
    assert ours == {mrseam: Path(name).parent.name for mrseam, name in table.items()}


def test_intels_mapping_file_names_the_same_releases() -> None:
    mapping = parse_mapping(read(f"{BINARIES}/mapping_file.json"))
    assert mapping.keys() == {version_key(release.version) for release in Releases.load().releases}
    assert mapping[(2, 0, 8)].minimum_running == "2.0.04"
