"""The acceptance suite from an installed wheel, without the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory into which the wheel is installed; its dependencies are those of this Python."""
    place = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", place, ROOT], check=True)
    (wheel,) = place.glob("tdxstack-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", place / "site", wheel], check=True)
    return place / "site"


def test_a_case_runs_where_there_is_no_checkout(site: Path, emulator_binary: Path, tmp_path: Path) -> None:
    python = [sys.executable, "-P"]
    environment = os.environ | {"PYTHONPATH": str(site)}
    origin = [*python, "-c", "import tdxstack.testing.suite as suite; print(suite.__file__)"]
    found = subprocess.run(origin, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.startswith(str(site))
    command = [*python, "-m", "tdxstack", "test", "end[td-force]", "--platform", "emulated", "--json"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [(case["id"], case["status"]) for case in document["cases"]] == [("power.end[td-force]", "ok")]
