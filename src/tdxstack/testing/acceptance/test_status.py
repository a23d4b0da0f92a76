"""What a TD and its host say of themselves, and how a TD proves it."""

from __future__ import annotations

import json

import pytest

from tdxstack.machine.spec_parts import Kind
from tdxstack.testing.acceptance.kinds import KINDS
from tdxstack.testing.machines import Laboratory
from tdxstack.testing.runner import Recording, Tdx


@pytest.mark.td
def test_evidence(tdx: Tdx, recording: Recording) -> None:
    """A TD's quote, event log and registers are verified, and every check passes."""
    checks = {check["id"]: check["status"] for check in recording.document["checks"]}
    assert recording.document["verdict"] == "accepted"
    assert {name for name, status in checks.items() if status not in ("ok", "not_applicable")} == set()
    registers = recording.document["registers"]
    assert {name for name, register in registers.items() if not register["match"]} == set()
    assert registers["mrtd"]["measured"] != "00" * 48
    events = tdx.json("evidence", "show", str(recording.files / "evidence.json"))["events"]
    assert {"rtmr0", "rtmr1", "rtmr2"} <= {event["register"].lower() for event in events}


@pytest.mark.parametrize("kind", KINDS)
def test_confidential(kind: Kind, laboratory: Laboratory) -> None:
    """A TD's system sees that it is one; other guests see that they are none."""
    done = laboratory.shared(kind).run(["systemd-detect-virt", "--cvm"], check=False)
    assert done.stdout.decode().strip() == ("tdx" if kind is Kind.TD else "none")


@pytest.mark.td
def test_guest_side(laboratory: Laboratory) -> None:
    """The guest's kernel has all that attestation needs: device, registers, log, quotes."""
    document = json.loads(laboratory.shared(Kind.TD).run(["tdx-guest", "check"]).stdout)
    assert {check["id"]: check["status"] for check in document["checks"] if check["status"] != "ok"} == {}


@pytest.mark.hardware
def test_host(tdx: Tdx) -> None:
    """The doctor finds nothing in registers, kernel, KVM and TDX module that keeps TDs from running."""
    checks = tdx.json("doctor", code=None)["checks"]
    seen = {check["id"]: check for check in checks if check["purpose"] == "launch"}
    assert {name: check["found"] for name, check in seen.items() if check["status"] == "fail"} == {}
    unseen = [
        name for name, check in seen.items() if check["status"] == "unknown" and not check["implied_by"]
    ]
    if unseen:
        pytest.skip(f"only root can see {', '.join(unseen)}: run sudo tdx doctor")
