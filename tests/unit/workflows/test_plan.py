from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tdxstack.collateral.fetch import Client
from tdxstack.collateral.service import Service
from tdxstack.errors import UnavailableError
from tdxstack.files import Directories
from tdxstack.platform import Platform
from tdxstack.toolbox import host_packages
from tdxstack.workflows.plan import plan_up
from tdxstack.workflows.up import UpRequest
from tdxstack.workflows.workshop import Surroundings
from tests.unit.workflows.test_up import NoKvm

pytestmark = pytest.mark.skipif(not Path("/usr/bin/dpkg-query").exists(), reason="the host has no dpkg")


@pytest.fixture
def surroundings(tmp_path: Path) -> Surroundings:
    places = Directories(tmp_path / "cache", tmp_path / "data", tmp_path / "run")
    return Surroundings(places, NoKvm(), 1000, "", (), lambda: datetime(2026, 1, 1, tzinfo=UTC))


def test_plan_on_a_fresh_machine_lists_every_step_and_makes_nothing(
    surroundings: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_packages, "missing", lambda packages: ["ninja-build"])
    steps = plan_up(UpRequest(mirror="http://mirror.invalid/debian"), surroundings)
    needed = [step.what for step in steps if step.needed]
    assert list(dict.fromkeys(needed)) == [
        "host packages",
        "program",
        "emulator",
        "firmware",
        "image",
        "trust",
        "machine",
    ]
    assert any("install" in step.text and "ninja-build" in step.text for step in steps)
    assert list(tmp_path.iterdir()) == []


def test_plan_says_why_the_platform_is_what_it_is(surroundings: Surroundings) -> None:
    steps = plan_up(UpRequest(mirror="http://mirror.invalid/debian"), surroundings)
    assert steps[0].text == "platform: emulated (/dev/kvm does not exist)"


def test_plan_refuses_what_up_would_refuse(surroundings: Surroundings) -> None:
    with pytest.raises(UnavailableError):
        plan_up(UpRequest(platform=Platform.HARDWARE), surroundings)


class TdxKvm:
    def kvm_extension(self, capability: int) -> int:
        return 1 << 5


def test_plan_on_hardware_says_where_collateral_comes_from(surroundings: Surroundings) -> None:
    hardware = replace(surroundings, host=TdxKvm())
    request = UpRequest(mirror="http://mirror.invalid/debian", collateral=Path("bundle.json"))
    steps = {step.what: step for step in plan_up(request, hardware)}
    assert (steps["collateral"].needed, steps["collateral"].text) == (False, "collateral: bundle.json")
    client = Client(Service.named("pcs"), surroundings.clock)
    request = replace(request, collateral=None, collateral_client=client)
    steps = {step.what: step for step in plan_up(request, hardware)}
    assert steps["collateral"].needed
    assert "fetch from https://api.trustedservices.intel.com" in steps["collateral"].text
    assert "trust" not in steps
