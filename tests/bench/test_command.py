"""How long the command takes to start, against Python alone."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

GROUP = "tdx --help"


@pytest.mark.benchmark(group=GROUP)
def test_help(benchmark: Any) -> None:
    benchmark(subprocess.run, [sys.executable, "-m", "tdxstack", "--help"], check=True, capture_output=True)


@pytest.mark.benchmark(group=GROUP)
def test_limit_bare_python(benchmark: Any) -> None:
    benchmark(subprocess.run, [sys.executable, "-c", "pass"], check=True, capture_output=True)
