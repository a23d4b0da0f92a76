"""What a TD says of itself, and how it proves it."""

from __future__ import annotations

import json

from tdxstack.testing.runner import Recording, Tdx


def test_evidence(tdx: Tdx, recording: Recording) -> None:
    """A TD's quote, event log and registers are verified, and every check passes."""
    checks = {check["id"]: check["status"] for check in recording.document["checks"]}
    assert recording.document["verdict"] == "accepted"
    assert {name for name, status in checks.items() if status not in ("ok", "not_applicable")} == set()
    registers = recording.document["registers"]
    assert {name for name, register in registers.items() if not register["match"]} == set()
    assert registers["mrtd"]["measured"] != "00" * 48
    events = tdx.json("evidence", "show", "recorded")["events"]
    assert {"rtmr0", "rtmr1", "rtmr2"} <= {event["register"].lower() for event in events}


def test_guest_side(tdx: Tdx, recording: Recording) -> None:
    """The guest's kernel has all that attestation needs: device, registers, log, quotes."""
    document = json.loads(tdx.run("vm", "ssh", "recorded", "tdx-guest", "check").stdout)
    assert {check["id"]: check["status"] for check in document["checks"] if check["status"] != "ok"} == {}
