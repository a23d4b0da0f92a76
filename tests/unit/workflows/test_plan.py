from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tdxstack.collateral.fetch import Client
from tdxstack.collateral.service import Service
from tdxstack.errors import UnavailableError
from tdxstack.files import Directories
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import Kind
from tdxstack.platform import Platform
from tdxstack.toolbox import host_packages
from tdxstack.workflows.plan import plan_machine, plan_up
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


MADE_HERE = {"archive", "program", "emulator", "firmware", "image"}


@pytest.mark.parametrize(
    ("fields", "left_out"),
    [
        ({}, set()),
        ({"image": {"path": "/a.raw"}}, {"image"}),
        ({"diskless": True}, {"image"}),
        ({"kind": Kind.EFI, "platform": Platform.HARDWARE}, set()),
        ({"kind": Kind.LEGACY}, {"firmware"}),
        ({"kind": Kind.LEGACY, "image": {"path": "/a.raw"}}, {"firmware", "image"}),
    ],
)
def test_plan_of_a_machine_has_its_parts_alone(
    surroundings: Surroundings,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, object],
    left_out: set[str],
) -> None:
    monkeypatch.setattr(host_packages, "missing", lambda packages: [])
    steps = plan_machine(MachineSpec().changed(**fields), surroundings)
    assert {step.what for step in steps} == MADE_HERE - left_out | {"host packages"}
    programs = {step.text.split()[1].rstrip(":") for step in steps if step.what == "program"}
    assert ("mkfs.ext4" in programs) == ("image" not in left_out)
    assert "qemu-img" in programs


def test_plan_of_a_machine_that_is_no_td_takes_the_host_s_qemu(
    surroundings: Surroundings, tmp_path: Path
) -> None:
    (tmp_path / "qemu-system-x86_64").write_text("#!/bin/sh\n")
    (tmp_path / "qemu-system-x86_64").chmod(0o755)
    with_qemu = replace(surroundings, search_path=str(tmp_path))
    for kind, emulator in ((Kind.EFI, False), (Kind.TD, True)):
        steps = {step.what for step in plan_machine(MachineSpec(kind=kind), with_qemu)}
        assert ("emulator" in steps) is emulator


def test_plan_of_a_td_on_hardware_that_is_not_there(surroundings: Surroundings) -> None:
    with pytest.raises(UnavailableError, match="cannot run TDs on hardware"):
        plan_machine(MachineSpec(platform=Platform.HARDWARE), surroundings)


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
