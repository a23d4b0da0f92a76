from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tdxstack.collateral.fetch import Client
from tdxstack.collateral.service import Service
from tdxstack.errors import MalformedError, UnavailableError, UsageError
from tdxstack.files import Directories, lock
from tdxstack.machine.spec_parts import PageTracking
from tdxstack.machine.store import MachineState, MachineStore
from tdxstack.platform import Platform
from tdxstack.workflows.machines import Machines
from tdxstack.workflows.up import UpRequest, bring_up
from tdxstack.workflows.workshop import Surroundings


class NoKvm:
    def kvm_extension(self, capability: int) -> int:
        raise UnavailableError("/dev/kvm does not exist")


@pytest.fixture
def surroundings(tmp_path: Path) -> Surroundings:
    places = Directories(tmp_path / "cache", tmp_path / "data", tmp_path / "run")
    return Surroundings(places, NoKvm(), 1000, "", (), lambda: datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    "request_", [UpRequest(ve=True), UpRequest(sept=PageTracking.LOG), UpRequest(emulator_version="10.2.2")]
)
def test_emulators_options_are_refused_on_hardware(request_: UpRequest) -> None:
    with pytest.raises(UsageError, match="emulated platform"):
        replace(request_, collateral=Path("c")).refuse_contradictions(Platform.HARDWARE)
    request_.refuse_contradictions(Platform.EMULATED)


def test_debug_is_refused_on_hardware_as_upstream_does() -> None:
    request = UpRequest(debug=True)
    with pytest.raises(UsageError, match="DEBUG"):
        replace(request, collateral=Path("c")).refuse_contradictions(Platform.HARDWARE)
    request.refuse_contradictions(Platform.EMULATED)


def test_collateral_goes_with_hardware_only() -> None:
    with pytest.raises(UsageError, match="needs collateral"):
        UpRequest().refuse_contradictions(Platform.HARDWARE)
    client = Client(Service.named("pcs"), lambda: datetime(2026, 1, 1, tzinfo=UTC))
    file, service = UpRequest(collateral=Path("c")), UpRequest(collateral_client=client)
    for request in (file, service):
        request.refuse_contradictions(Platform.HARDWARE)
        with pytest.raises(UsageError, match="brings its own"):
            request.refuse_contradictions(Platform.EMULATED)
    with pytest.raises(UsageError, match="from one source"):
        replace(file, collateral_client=client).refuse_contradictions(Platform.HARDWARE)


def test_hardware_that_is_absent_ends_before_anything_is_made(
    surroundings: Surroundings, tmp_path: Path
) -> None:
    with pytest.raises(UnavailableError, match="cannot run TDs on hardware"):
        bring_up(UpRequest(platform=Platform.HARDWARE), surroundings)
    assert list(tmp_path.iterdir()) == []


def test_name_of_a_running_machine_is_refused_before_anything_is_made(surroundings: Surroundings) -> None:
    store = MachineStore(surroundings.directories)
    with lock(store.prepare("td").lock), pytest.raises(UsageError, match="is running already"):
        bring_up(UpRequest(), surroundings)


def test_two_commands_cannot_start_or_end_one_machine_at_once(surroundings: Surroundings) -> None:
    store = MachineStore(surroundings.directories)
    store.prepare("td").state.write_bytes(b"{}")
    with store.claim("td"):
        with pytest.raises(UnavailableError, match="in use"):
            bring_up(UpRequest(), surroundings)
        with pytest.raises(UnavailableError, match="in use"):
            Machines(surroundings).open("td").remove(None)


@pytest.mark.parametrize("state", [b"", b"{}", b"[1]", b'{"pid": "x"}'])
def test_machine_with_a_damaged_state_can_be_removed(surroundings: Surroundings, state: bytes) -> None:
    store = MachineStore(surroundings.directories)
    store.prepare("td").state.write_bytes(state)
    with pytest.raises(MalformedError, match="is not a machine's state") as caught:
        store.load("td")
    assert caught.value.hint == "run: tdx down td"
    Machines(surroundings).open("td").remove(None)
    assert store.names() == []


def test_machine_that_has_ended_is_removed_with_its_files(surroundings: Surroundings) -> None:
    store = MachineStore(surroundings.directories)
    files = store.prepare("td")
    store.save(MachineState("td", "emulated", True, 1, 22, "2026-01-01T00:00:00+00:00", ["qemu"]))
    assert store.names() == ["td"]
    Machines(surroundings).open("td").remove(None)
    assert store.names() == []
    assert not files.directory.exists()
    assert not files.runtime.exists()
