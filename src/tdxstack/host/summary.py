"""What a diagnosis comes to: the line that people read first, and the document that programs read."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from tdxstack import __version__
from tdxstack.host.check import Check, Circumstances, Purpose
from tdxstack.host.checks.processor import Processor
from tdxstack.host.diagnosis import SCHEMA, Diagnosis, Result
from tdxstack.host_access import Host, HostError
from tdxstack.platform import choose_platform
from tdxstack.verification.result import Status

HARDWARE_GATES = ("cpu.model", "machine.kind", "cpu.seam")
"""Where one of these fails, no setting makes the machine a TDX host."""


def headline(diagnosis: Diagnosis) -> str:
    """The diagnosis in one line."""
    cause = diagnosis.first_cause
    if cause is None:
        return "ready: TDs can run here and prove themselves"
    if cause.status is Status.UNKNOWN:
        command = cause.finding.fix or "sudo tdx doctor"
        return f"cannot tell: {cause.finding.cause} ({cause.id}); to see it: {command}"
    if cause.id in HARDWARE_GATES:
        return f"not ready: {cause.finding.cause} ({cause.id}); {_instead(diagnosis)}"
    if diagnosis.ready_for(Purpose.LAUNCH):
        return f"TDs can run here, but cannot prove themselves: {cause.finding.cause} ({cause.id})"
    return f"not ready: {cause.finding.cause} ({cause.id})"


def _instead(diagnosis: Diagnosis) -> str:
    """What the machine is good for without TDX."""
    guest = [result for result in diagnosis.results if result.check.purpose is Purpose.GUEST]
    if guest and guest[0].status is not Status.NOT_APPLICABLE:
        bad = [result.id for result in guest if result.status is Status.FAIL]
        return (
            f"it lacks {', '.join(bad)}"
            if bad
            else "its own interfaces are in order: tdx guest check uses them"
        )
    emulator = diagnosis.result("emulated.emulator")
    if emulator.status is Status.OK:
        return f"the emulated platform is available ({emulator.finding.found})"
    return f"the emulated platform is not available either: {emulator.finding.cause}"


def to_json(
    diagnosis: Diagnosis, host: Host, circumstances: Circumstances, *, recorded: datetime | None
) -> dict[str, Any]:
    """The diagnosis as a document; `recorded` is when the host was recorded, None where it answers now."""
    choice = choose_platform(host, None)
    cause = diagnosis.first_cause
    return {
        "schema": SCHEMA,
        "tdxstack": __version__,
        "ready": diagnosis.ready,
        "ready_for": {
            "launch": diagnosis.ready_for(Purpose.LAUNCH),
            "attest": diagnosis.ready_for(Purpose.ATTEST),
        },
        "diagnosis": headline(diagnosis),
        "first_cause": cause.id if cause else None,
        "platform": {"name": choice.platform.value, "reason": choice.reason},
        "host": _host(host, diagnosis),
        "time": circumstances.now.isoformat(),
        "recorded": recorded.isoformat() if recorded else None,
        "network": circumstances.network,
        "counts": counts(diagnosis.results),
        "checks": [result.to_json() for result in diagnosis.results],
    }


def counts(results: Iterable[Result]) -> dict[str, int]:
    """How many checks ended in each way."""
    statuses = [result.status for result in results]
    return {status.value: statuses.count(status) for status in Status}


def explain(check: Check) -> dict[str, Any]:
    """What a check is about."""
    return {
        "id": check.id,
        "purpose": check.purpose.value,
        "looks_at": check.looks_at,
        "expected": check.expected,
        "why": check.why,
        "fix": check.fix,
        "link": check.link,
        "needs": list(check.needs),
        "proved_by": list(check.proved_by),
    }


def _host(host: Host, diagnosis: Diagnosis) -> dict[str, Any]:
    """What the machine is, for those who collect many such documents."""
    try:
        cpu = Processor.of(host)
        processor = {"vendor": cpu.vendor, "family": cpu.family, "model": cpu.model, "name": cpu.name}
    except HostError:
        processor = {}
    try:
        release = host.kernel_release()
    except HostError:
        release = ""
    return {
        "kind": diagnosis.result("machine.kind").finding.found,
        "cpu": processor,
        "kernel": release,
        "tdx_module": diagnosis.result("module.version").finding.found,
        "qemu": diagnosis.result("qemu.tdx").finding.found,
    }
