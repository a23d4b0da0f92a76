"""Whole machines and what is said of them first."""

from __future__ import annotations

import pytest

from tdxstack.host.chain import CHAIN
from tdxstack.host.check import Circumstances, Purpose
from tdxstack.host.checks.pccs import QCNL_CONFIG
from tdxstack.host.checks.registration import MPA_LOG, STATUS_VARIABLE
from tdxstack.host.diagnosis import Diagnosis, diagnose
from tdxstack.host.summary import headline, to_json
from tdxstack.verification.result import Status
from tests.scripted_host import ScriptedHost
from tests.unit.host import worlds
from tests.unit.host.worlds import ALL, FIRST_CAUSES, NOW, READY, World

AROUND = Circumstances(NOW)


def examine(host: ScriptedHost) -> Diagnosis:
    return diagnose(host, AROUND, CHAIN)


@pytest.mark.parametrize("world", READY, ids=lambda world: world.__name__)
def test_good_hosts_are_ready(world: World) -> None:
    diagnosis = examine(world())
    assert [one.id for one in diagnosis.results if one.status is Status.FAIL] == []
    assert diagnosis.ready
    assert diagnosis.first_cause is None
    assert headline(diagnosis) == "ready: TDs can run here and prove themselves"


@pytest.mark.parametrize(
    ("world", "cause"), FIRST_CAUSES.items(), ids=lambda one: getattr(one, "__name__", one)
)
def test_the_first_cause_is_named(world: World, cause: str) -> None:
    diagnosis = examine(world())
    assert not diagnosis.ready
    assert diagnosis.first_cause is not None
    assert diagnosis.first_cause.id == cause
    assert f"({cause})" in headline(diagnosis)


@pytest.mark.parametrize(
    "world",
    [world for world in FIRST_CAUSES if world is not worlds.container],
    ids=lambda world: world.__name__,
)
def test_one_root_is_shown_once_and_the_rest_are_its_consequences(world: World) -> None:
    diagnosis = examine(world())
    roots = [one.id for one in diagnosis.results if one.status is Status.FAIL and not one.because_of]
    assert roots == [FIRST_CAUSES[world]]
    for result in diagnosis.results:
        assert result.because_of in ("", *roots)
        if result.because_of:
            assert result.status not in (Status.OK,)


@pytest.mark.parametrize("world", ALL, ids=lambda world: world.__name__)
def test_every_finding_says_something_and_how_to_mend_it(world: World) -> None:
    host = world()
    document = to_json(examine(host), host, AROUND, recorded=None)
    assert document["ready"] is (document["first_cause"] is None)
    for check in document["checks"]:
        if check["status"] in ("fail", "warning"):
            assert check["detail"], check
            assert check["fix"], check
        if check["status"] == "unknown":
            assert check["detail"], check
        if check["status"] == "ok":
            assert check["found"], check


def test_an_ordinary_user_sees_that_it_works_all_the_same() -> None:
    diagnosis = examine(worlds.without_root())
    assert diagnosis.ready_for(Purpose.LAUNCH)
    tme = diagnosis.result("bios.tme")
    assert (tme.status, tme.implied_by) == (Status.UNKNOWN, "kvm.vm_types")
    assert tme.finding.fix == "sudo modprobe msr && sudo rdmsr -p 0 0x982"
    production = diagnosis.result("cpu.production")
    assert (production.status, production.implied_by) == (Status.UNKNOWN, "registration.state")
    assert diagnosis.ready


def test_what_nobody_could_see_is_named_with_the_command_that_shows_it() -> None:
    host = worlds.without_root()
    host.files.pop(STATUS_VARIABLE)
    host.files.pop(MPA_LOG)
    diagnosis = examine(host)
    assert not diagnosis.ready
    assert headline(diagnosis) == (
        "cannot tell: /dev/cpu/0/msr may not be used by this user (cpu.production); to see it: "
        "sudo modprobe msr && sudo rdmsr -p 0 0xce"
    )


def test_a_machine_without_tdx_is_told_of_the_emulated_platform() -> None:
    line = headline(examine(worlds.amd()))
    assert line == (
        "not ready: this machine lacks a CPU with TDX: AMD CPUs do not have it (cpu.model); the emulated "
        "platform is available (not built yet: tdx up or tdx emulator build does that)"
    )
    built = diagnose(worlds.amd(), Circumstances(NOW, emulator="10.0.13"), CHAIN)
    assert "available (built: QEMU 10.0.13, emulated)" in headline(built)
    host = worlds.amd()
    host.programs.clear()
    assert "not available either" in headline(examine(host))


def test_a_td_is_told_that_it_is_one() -> None:
    diagnosis = examine(worlds.inside_td())
    assert headline(diagnosis) == (
        "not ready: this is a TD, not a host of TDs (machine.kind); its own interfaces are in order: "
        "tdx guest check uses them"
    )
    host = worlds.inside_td()
    host.statuses.pop("/sys/kernel/config/tsm/report")
    assert "it lacks guest.quote" in headline(examine(host))


def test_a_host_that_can_only_launch_says_so() -> None:
    diagnosis = examine(worlds.qgs_forbidden())
    assert diagnosis.ready_for(Purpose.LAUNCH)
    assert not diagnosis.ready_for(Purpose.ATTEST)
    assert headline(diagnosis).startswith(
        "TDs can run here, but cannot prove themselves: QEMU runs as libvirt-qemu"
    )


def test_checks_that_cannot_be_worthwhile_ask_nothing() -> None:
    host = worlds.amd()
    examine(host)
    assert not [
        question for question in host.asked if question.startswith(("msr", "run", "exchange", "fetch"))
    ]


def test_nothing_leaves_the_machine_without_being_told() -> None:
    host = worlds.good_emr()
    host.files[QCNL_CONFIG] = b'{"pccs_url": "https://pccs.example.net:8081/sgx/certification/v4/"}'
    diagnosis = examine(host)
    assert diagnosis.result("pccs.answer").status is Status.NOT_APPLICABLE
    assert "--network" in diagnosis.result("pccs.answer").finding.cause
    assert not [question for question in host.asked if question.startswith("fetch")]
    diagnose(host, Circumstances(NOW, network=True), CHAIN)
    assert [question for question in host.asked if question.startswith("fetch")] == [
        "fetch https://pccs.example.net:8081/sgx/certification/v4/rootcacrl"
    ] * 2
