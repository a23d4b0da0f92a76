"""How long `tdx doctor` takes without the network, against the start of the command alone.

Target: 1.5 s. The whole chain runs over a recorded host here, whose programs and sockets cost nothing;
on a real one QEMU and libvirt are asked side by side with the rest.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tdxstack.host.check import Circumstances
from tdxstack.host.report import collect
from tests.unit.host.worlds import NOW, good_emr

GROUP = "tdx doctor"
TDX = [sys.executable, "-m", "tdxstack"]


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    collect(good_emr(), Circumstances(NOW), ()).write(tmp_path / "host.tar")
    return tmp_path / "host.tar"


@pytest.mark.benchmark(group=GROUP)
def test_doctor_on_this_machine(benchmark: Any) -> None:
    benchmark(subprocess.run, [*TDX, "doctor"], check=False, capture_output=True)


@pytest.mark.benchmark(group=GROUP)
def test_doctor_of_a_whole_host(benchmark: Any, recorded: Path) -> None:
    benchmark(subprocess.run, [*TDX, "doctor", "--from", str(recorded)], check=True, capture_output=True)


@pytest.mark.benchmark(group=GROUP)
def test_limit_version(benchmark: Any) -> None:
    benchmark(subprocess.run, [*TDX, "--version"], check=True, capture_output=True)
