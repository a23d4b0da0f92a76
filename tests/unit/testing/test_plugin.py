"""The plugin's options and markers, in runs of pytest of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CASES = """
import pytest

@pytest.mark.hardware
def test_of_hardware(): ...

@pytest.mark.emulated
def test_of_emulation(): ...

def test_of_machines(tdx):
    assert FAILS not in (1,)
"""


def run(directory: Path, *options: str, fails: int = 0) -> tuple[int, str]:
    (directory / "test_it.py").write_text(CASES.replace("FAILS", str(fails)))
    words = [sys.executable, "-m", "pytest", "-c", "/dev/null", "-rs", "-p", "tdxstack.testing.plugin"]
    done = subprocess.run(
        [*words, "-p", "no:cacheprovider", *options, directory], capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def test_what_needs_hardware_is_skipped_with_the_reason(tmp_path: Path) -> None:
    code, output = run(tmp_path, "--tdx-platform", "emulated")
    assert code == 0
    assert "2 passed, 1 skipped" in output
    assert "needs TDX hardware: " in output


def test_what_uses_machines_is_marked(tmp_path: Path) -> None:
    _, output = run(tmp_path, "-m", "e2e", "--collect-only", "-q")
    assert "1/3 tests collected" in output
    assert "test_of_machines" in output


def test_hardware_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    code, output = run(tmp_path, "--tdx-platform", "hardware")
    if code == 0:
        pytest.skip("this host runs TDs on hardware")
    assert code == 4
    assert "this machine cannot run TDs on hardware" in output


@pytest.mark.parametrize(("fails", "kept"), [(0, False), (1, True)])
def test_machines_are_kept_only_after_a_failure(
    fails: int, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    _, output = run(tmp_path, "--tdx-keep-failed", "-m", "e2e", fails=fails)
    assert bool(list((tmp_path / "tmp").glob("tdx-test-*"))) is kept
    assert ("machines were kept" in output) is kept
