"""Runs a chain of checks and tells causes from consequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tdxstack.host.check import Check, Circumstances, Finding, Purpose
from tdxstack.host_access import Host
from tdxstack.verification.result import Status

SCHEMA = 1
WORKERS = 12
"""Checks that look at the same time. Nearly all of them wait for a program, a socket or a server."""

NEEDED = (Purpose.LAUNCH, Purpose.ATTEST)


@dataclass(frozen=True, slots=True)
class Result:
    """A check and what it found.

    `because_of` is the check whose failure explains this one; `implied_by` the check that shows this one to
    be in order although it could not be made.
    """

    check: Check
    finding: Finding
    because_of: str = ""
    implied_by: str = ""

    @property
    def id(self) -> str:
        return self.check.id

    @property
    def status(self) -> Status:
        return self.finding.status

    @property
    def open(self) -> bool:
        """Whether this keeps the host from being ready."""
        return self.status is Status.FAIL or (self.status is Status.UNKNOWN and not self.implied_by)

    def to_json(self) -> dict[str, Any]:
        """The five fields of every check, and what this kind adds."""
        return {
            "id": self.id,
            "status": self.status.value,
            "expected": self.check.expected,
            "found": self.finding.found,
            "detail": self.finding.cause,
            "fix": self.finding.fix,
            "link": self.check.link,
            "purpose": self.check.purpose.value,
            "needs": list(self.check.needs),
            "because_of": self.because_of or None,
            "implied_by": self.implied_by or None,
        }


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Every check of the chain, in order."""

    results: tuple[Result, ...]

    def ready_for(self, purpose: Purpose) -> bool:
        """Whether nothing stands in the way of launching TDs, or of their quotes."""
        wanted = (Purpose.LAUNCH,) if purpose is Purpose.LAUNCH else NEEDED
        return not any(result.open for result in self.results if result.check.purpose in wanted)

    @property
    def ready(self) -> bool:
        """Whether TDs can be launched and can prove themselves."""
        return self.ready_for(Purpose.ATTEST)

    @property
    def first_cause(self) -> Result | None:
        """What to repair first: the first failure that no other explains, else the first thing not seen."""
        needed = [result for result in self.results if result.check.purpose in NEEDED and result.open]
        failed = [one for one in needed if one.status is Status.FAIL and not one.because_of]
        return next(iter([*failed, *needed]), None)

    def result(self, check_id: str) -> Result:
        """The result of one check."""
        return next(result for result in self.results if result.id == check_id)


def diagnose(host: Host, circumstances: Circumstances, chain: Sequence[Check]) -> Diagnosis:
    """Let every check of `chain` look at the host; a check stands behind those that it needs.

    What needs a gate that fails is not looked at. All others look side by side.
    """
    findings: dict[str, Finding] = {}
    for gate in (check for check in chain if check.gate):
        if not _closed(gate, chain, findings):
            findings[gate.id] = gate.look(host, circumstances)
    rest = [check for check in chain if not check.gate and not _closed(check, chain, findings)]
    with ThreadPoolExecutor(WORKERS) as pool:
        looks = {check.id: pool.submit(check.look, host, circumstances) for check in rest}
        findings |= {name: look.result() for name, look in looks.items()}
    results: list[Result] = []
    for check in chain:
        results.append(_result(check, chain, findings, {result.id: result for result in results}))
    return Diagnosis(tuple(results))


def _result(
    check: Check, chain: Sequence[Check], findings: Mapping[str, Finding], before: Mapping[str, Result]
) -> Result:
    """The finding of a check with what explains it; `before` has the results of all that it needs."""
    failed = [before[name] for name in _all_needs(check, chain) if before[name].status is Status.FAIL]
    root = next((result.because_of or result.id for result in failed), "")
    finding = findings.get(check.id)
    if finding is None:
        return Result(check, Finding(Status.NOT_APPLICABLE, "", f"not looked at: see {root}"), root)
    if finding.status in (Status.OK, Status.NOT_APPLICABLE):
        return Result(check, finding)
    proof = next((name for name in check.proved_by if _passed(findings.get(name))), "")
    implied = proof if finding.status is Status.UNKNOWN and not root else ""
    return Result(check, finding, root, implied)


def _closed(check: Check, chain: Sequence[Check], findings: Mapping[str, Finding]) -> str:
    """The gate that keeps `check` from looking, empty where none does."""
    needs = _all_needs(check, chain)
    closed = (other.id for other in chain if other.gate and other.id in needs)
    return next((name for name in closed if name not in findings or _failed(findings[name])), "")


def _all_needs(check: Check, chain: Sequence[Check]) -> list[str]:
    """What `check` needs, directly or not, in the order of the chain."""
    by_id = {other.id: other for other in chain}
    found: set[str] = set()
    ahead = list(check.needs)
    while ahead:
        name = ahead.pop()
        if name not in found:
            found.add(name)
            ahead += by_id[name].needs
    return [other.id for other in chain if other.id in found]


def _passed(finding: Finding | None) -> bool:
    return finding is not None and finding.status is Status.OK


def _failed(finding: Finding) -> bool:
    return finding.status is Status.FAIL
