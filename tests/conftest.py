"""Settings of the whole test run."""

from __future__ import annotations

import signal

import pytest
from hypothesis import settings

# The machines that run the tests are noisy: how long one example takes says nothing.
settings.register_profile("tdxstack", deadline=None)
settings.load_profile("tdxstack")

# A script starts what it puts into the background with SIGINT ignored, and so all that this starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure() -> None:
    """Let tests be interrupted, and what they start, where this run ignores Ctrl-C: in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much of the differential tests to run."""
    parser.addoption(
        "--mutations", type=int, default=1000, help="changed quotes per quote that another verifier is asked"
    )


@pytest.fixture(scope="session")
def mutation_count(request: pytest.FixtureRequest) -> int:
    """How many changes of each quote two verifiers are compared on."""
    count: int = request.config.getoption("--mutations")
    return count
