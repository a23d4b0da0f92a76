"""A toolbox whose programs are shell scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest

from tdxstack.toolbox import programs
from tdxstack.toolbox.programs import TOOLSETS, Toolbox


def stand_ins(
    directory: Path, toolset: str, scripts: Mapping[str, str], patch: pytest.MonkeyPatch
) -> Toolbox:
    """A toolbox that has `toolset` already, its programs doing what `scripts` say."""
    patch.setattr(programs, "_has_scripts", lambda *_: True)
    tree = directory / f"{toolset}-{'0' * 16}"
    (tree / "root").mkdir(parents=True)
    (tree / "run").mkdir()
    record = {"tree": tree.name, "wanted": list(TOOLSETS[toolset].packages), "packages": {}}
    (directory / f"{toolset}.json").write_text(json.dumps(record))
    for name, script in scripts.items():
        (tree / "run" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tree / "run" / name).chmod(0o755)
    return Toolbox(directory, no_archive, search_path="")


def no_archive() -> NoReturn:
    raise AssertionError("nothing is to be fetched")
