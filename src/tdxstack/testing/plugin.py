"""The pytest plugin; load it with `-p tdxstack.testing.plugin`. It costs nothing where it is not loaded.

Machines, keys and sockets are the session's own and are gone with it, also after an interrupt. Downloads and
builds go into the user's ordinary cache, so that a second run builds nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tdxstack.errors import TdxError
from tdxstack.host_access import RealHost
from tdxstack.platform import Platform, PlatformChoice, choose_platform, why_no_tdx
from tdxstack.testing.machines import Laboratory
from tdxstack.testing.runner import Recording, Tdx

MARKERS = (
    "e2e: boots machines; set on all that uses them",
    "hardware: needs TDX hardware; skipped elsewhere",
    "emulated: is about emulated TDs; skipped on hardware",
    "slow: takes more than half a minute where TDs are emulated",
    "td: starts TDs",
    "efi: starts ordinary machines with EFI firmware",
    "legacy: starts ordinary machines with a BIOS",
)
CHOICE = pytest.StashKey[PlatformChoice]()
KEPT = pytest.StashKey[Tdx]()
"""Where the machines of a session with failures were kept."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tdx", "machines of tdxstack")
    group.addoption(
        "--tdx-platform",
        choices=[platform.value for platform in Platform],
        help="run on TDX hardware or emulated; default: hardware where KVM offers it",
    )
    group.addoption(
        "--tdx-keep-failed",
        action="store_true",
        help="leave the machines running where a test has failed",
    )


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    requested = config.getoption("--tdx-platform")
    try:
        config.stash[CHOICE] = choose_platform(RealHost(), Platform(requested) if requested else None)
    except TdxError as error:
        raise pytest.UsageError(f"{error.message}; {error.hint}") from None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    choice = config.stash[CHOICE]
    why_emulated = why_no_tdx(RealHost()) or "the emulated platform was asked for"
    for item in items:
        if "tdx" in getattr(item, "fixturenames", ()):
            item.add_marker("e2e")
        if item.get_closest_marker("hardware") and choice.emulated:
            item.add_marker(pytest.mark.skip(f"needs TDX hardware: {why_emulated}"))
        if item.get_closest_marker("emulated") and not choice.emulated:
            item.add_marker(pytest.mark.skip("is about emulated TDs"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if kept := config.stash.get(KEPT, None):
        terminalreporter.write_line(f"machines were kept; see them with: {kept.command('vm', 'list')}")


@pytest.fixture(scope="session")
def platform(pytestconfig: pytest.Config) -> PlatformChoice:
    """What the tests run on."""
    return pytestconfig.stash[CHOICE]


@pytest.fixture(scope="session")
def tdx(request: pytest.FixtureRequest) -> Iterator[Tdx]:
    """The command `tdx`, with machines of this session's own."""
    runner = Tdx.make()
    yield runner
    if request.session.testsfailed and request.config.getoption("--tdx-keep-failed"):
        request.config.stash[KEPT] = runner
    else:
        runner.remove()


@pytest.fixture(scope="session")
def emulator_binary(tdx: Tdx) -> Path:
    """The emulating QEMU, built if it is not in the cache."""
    return Path(tdx.json("emulator", "build", "--yes")["binary"])


@pytest.fixture(scope="session")
def recording(tdx: Tdx, platform: PlatformChoice) -> Recording:
    """The main job, once: the machine `recorded` goes on running."""
    # Hardware's quotes need Intel's collateral.
    fetched = [] if platform.emulated else ["--fetch"]
    words = ("up", "--name", "recorded", "--platform", platform.platform.value, "--yes", *fetched)
    document = tdx.json(*words)
    copy = tdx.data / "recording"
    shutil.copytree(tdx.files("recorded"), copy, ignore=shutil.ignore_patterns("disk.qcow2"))
    return Recording(document, copy, tdx.data / "tdxstack")


@pytest.fixture(scope="session")
def laboratory(tdx: Tdx, platform: PlatformChoice, tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    """Machines of every kind, shared and small ones."""
    directory = tmp_path_factory.mktemp("laboratory")
    firmware = directory / "setup.fd"
    tdx.run("firmware", "enroll", "--setup-mode", "--output", str(firmware))
    if platform.emulated:
        tdx.run("emulator", "build", "--yes")
    return Laboratory(tdx.surroundings, platform, firmware, directory)
