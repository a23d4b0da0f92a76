"""What tests with emulated TDs share: one emulator, one image, one recorded boot a session.

Downloads and builds go into the user's ordinary cache, so that a second run builds nothing. Machines, keys
and sockets are the session's own and are gone with it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

COMMAND_SECONDS = 3000


@dataclass(frozen=True)
class Tdx:
    """Runs the command `tdx` with data and sockets of this session's own."""

    data: Path
    runtime: Path

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"XDG_DATA_HOME": str(self.data), "XDG_RUNTIME_DIR": str(self.runtime)}

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run to the end; the exit code must be `code`."""
        done = subprocess.run(
            [sys.executable, "-m", "tdxstack", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Run with `--json` and return the document."""
        document = json.loads(self.run(*arguments, "--json", code=code).stdout)
        assert isinstance(document, dict)
        return document

    def files(self, name: str) -> Path:
        """The directory of a machine."""
        return self.data / "tdxstack/machines" / name

    def machines(self) -> Sequence[str]:
        return [machine["name"] for machine in self.json("vm", "list")["machines"]]


@pytest.fixture(scope="session")
def tdx() -> Iterator[Tdx]:
    # A short path: unix socket paths may have 107 bytes.
    root = Path(tempfile.mkdtemp(prefix="tdx-e2e-"))
    runner = Tdx(root / "data", root / "run")
    runner.runtime.mkdir(mode=0o700)
    try:
        yield runner
    finally:
        for name in runner.machines():
            runner.run("down", name, "--force")
        shutil.rmtree(root)


@pytest.fixture(scope="session")
def emulator_binary(tdx: Tdx) -> Path:
    """The emulating QEMU, built if it is not in the cache."""
    return Path(tdx.json("emulator", "build", "--yes")["binary"])


@dataclass(frozen=True)
class Recording:
    """A boot that `tdx up` has verified, and a copy of the files it left."""

    document: dict[str, Any]
    files: Path
    data: Path
    """tdxstack's data directory: the emulated platform's keys are in `pki`."""


@pytest.fixture(scope="session")
def recording(tdx: Tdx, emulator_binary: Path) -> Recording:
    """The main job, once: the machine `recorded` goes on running."""
    document = tdx.json("up", "--name", "recorded", "--platform", "emulated", "--yes")
    copy = tdx.data / "recording"
    shutil.copytree(tdx.files("recorded"), copy, ignore=shutil.ignore_patterns("disk.qcow2"))
    return Recording(document, copy, tdx.data / "tdxstack")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)
