"""Whose evidence stands for a machine."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tdxstack.errors import UsageError
from tdxstack.files import lock
from tdxstack.machine.machine import Machine
from tdxstack.machine.store import MachineState
from tdxstack.workflows import subjects
from tdxstack.workflows.machines import Machines
from tdxstack.workflows.subjects import machine_side
from tests.recorded_boot import pki_in, synthetic_boot
from tests.unit.workflows.test_machines import where

STARTED = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def machines(tmp_path: Path) -> Machines:
    made = Machines(where(tmp_path))
    made.store.prepare("vm")
    argv = ["qemu", "-smp", "2", "-m", "2048M"]
    made.store.save(MachineState("vm", "emulated", True, 1, 1, STARTED.isoformat(), argv))
    return made


@pytest.fixture
def asked(machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The nonces for which the machine was asked; it answers with evidence of its start."""
    nonces: list[bytes] = []
    answer = synthetic_boot(pki_in(tmp_path / "pki", STARTED), STARTED).evidence.to_json()

    def collect(machine: Machine, nonce: bytes) -> None:
        nonces.append(nonce)
        machine.files.evidence.write_text(answer)

    monkeypatch.setattr(subjects, "collect_evidence", collect)
    return nonces


def test_a_machine_that_runs_and_has_presented_nothing_is_asked(
    machines: Machines, asked: list[bytes]
) -> None:
    with lock(machines.store.files("vm").lock):
        side = machine_side(machines, "vm")
        assert (side.kind, side.memory, side.vcpus, side.emulated) == ("machine", 2048 << 20, 2, True)
        assert [len(nonce) for nonce in asked] == [32]
        machine_side(machines, "vm")
    assert len(asked) == 1


def test_evidence_of_an_earlier_start_does_not_count_while_it_runs(
    machines: Machines, asked: list[bytes]
) -> None:
    evidence = machines.store.files("vm").evidence
    with lock(machines.store.files("vm").lock):
        machine_side(machines, "vm")
        os.utime(evidence, (0, STARTED.timestamp() - 1))
        machine_side(machines, "vm")
    assert len(asked) == 2
    os.utime(evidence, (0, STARTED.timestamp() - 1))
    machine_side(machines, "vm")
    assert len(asked) == 2, "one that does not run cannot be asked"


def test_a_machine_that_neither_runs_nor_has_presented_anything(
    machines: Machines, asked: list[bytes]
) -> None:
    with pytest.raises(UsageError, match="does not run, and has presented no evidence"):
        machine_side(machines, "vm")
    assert not asked
