"""The command `tdx`, run by tests with data and sockets of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tdxstack.files import Directories
from tdxstack.firmware.find import directories as firmware_directories
from tdxstack.host_access import RealHost
from tdxstack.run import command_line
from tdxstack.workflows.workshop import Surroundings

COMMAND_SECONDS = 3000
"""How long a command may take: where caches are empty, the first one builds an emulator and an image."""

POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Tdx:
    """Runs the command `tdx` below one directory; downloads and builds go into the user's ordinary cache."""

    root: Path

    @classmethod
    def make(cls) -> Tdx:
        """A runner below a new temporary directory."""
        # A short path: those of unix sockets may have 107 bytes.
        tdx = cls(Path(tempfile.mkdtemp(prefix="tdx-test-")))
        tdx.runtime.mkdir(mode=0o700)
        return tdx

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def runtime(self) -> Path:
        return self.root / "run"

    @property
    def settings(self) -> dict[str, str]:
        """The variables that lead a `tdx` to these machines."""
        return {"XDG_DATA_HOME": str(self.data), "XDG_RUNTIME_DIR": str(self.runtime)}

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | self.settings

    @property
    def surroundings(self) -> Surroundings:
        """The same for the library: this process's host, with these machines."""
        return Surroundings(
            directories=Directories.of_user(self.environment, os.getuid()),
            host=RealHost(),
            uid=os.getuid(),
            search_path=os.environ.get("PATH", os.defpath),
            firmware_places=firmware_directories(os.environ, Path.home()),
            clock=lambda: datetime.now(UTC),
        )

    def command(self, *arguments: str) -> str:
        """What a person types to run `tdx` on these machines."""
        settings = [f"{name}={value}" for name, value in self.settings.items()]
        return command_line([*settings, "tdx", *arguments])

    def run(self, *arguments: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run to the end; the exit code must be `code`, unless that is None."""
        done = subprocess.run(
            [sys.executable, "-m", "tdxstack", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert code in (None, done.returncode), f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: str, code: int | None = 0) -> dict[str, Any]:
        """Run with `--json` and return the document."""
        document = json.loads(self.run(*arguments, "--json", code=code).stdout)
        assert isinstance(document, dict)
        return document

    @contextlib.contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A command that runs beside the test, and not longer."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tdxstack", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.terminate()

    def files(self, name: str) -> Path:
        """The directory of a machine."""
        return self.data / "tdxstack/machines" / name

    def machines(self) -> Sequence[str]:
        return [machine["name"] for machine in self.json("vm", "list")["machines"]]

    def remove(self) -> None:
        """End every machine and delete everything."""
        for name in self.machines():
            self.run("down", name, "--force")
        shutil.rmtree(self.root)


@dataclass(frozen=True, slots=True)
class Recording:
    """A boot that `tdx up` has verified, and a copy of the files it left."""

    document: dict[str, Any]
    files: Path
    data: Path
    """tdxstack's data directory: the emulated platform's keys are in `pki`."""


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Return once `condition` holds; an `AssertionError` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition did not come true within {seconds:g} s"
        time.sleep(POLL_SECONDS)
