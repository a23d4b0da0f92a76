"""What a verification says: one `Check` for each rule, all of them, and the verdict that follows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    FAIL = "fail"
    WARNING = "warning"
    NOT_APPLICABLE = "not_applicable"
    UNKNOWN = "unknown"
    """It could not be made: what it looks at is missing or unreadable. Never good enough for acceptance."""


@dataclass(frozen=True, slots=True)
class Check:
    """One rule: `id` is stable and dotted; `expected` and `found` are for people, digests in hex."""

    id: str
    status: Status
    expected: str = ""
    found: str = ""
    detail: str = ""

    def to_json(self) -> dict[str, str]:
        """The five fields by name."""
        return {
            "id": self.id,
            "status": self.status.value,
            "expected": self.expected,
            "found": self.found,
            "detail": self.detail,
        }


ACCEPTED = "accepted"
REJECTED = "rejected"


def verdict(checks: Iterable[Check]) -> str:
    """`accepted` if no check failed and none is unknown, else `rejected`. Without any check: `rejected`."""
    statuses = {check.status for check in checks}
    bad = not statuses or statuses & {Status.FAIL, Status.UNKNOWN}
    return REJECTED if bad else ACCEPTED


def ok(check_id: str, expected: str = "", found: str = "", detail: str = "") -> Check:
    """A check that passed."""
    return Check(check_id, Status.OK, expected, found, detail)


def fail(check_id: str, expected: str, found: str, detail: str = "") -> Check:
    """A check that failed."""
    return Check(check_id, Status.FAIL, expected, found, detail)


def judged(check_id: str, good: bool, expected: str, found: str, detail: str = "") -> Check:
    """A check that passed or failed. `detail` explains a failure and is left out of a success."""
    return ok(check_id, expected, found) if good else fail(check_id, expected, found, detail)


def unknown(check_id: str, reason: str) -> Check:
    """A check that could not be made, and why."""
    return Check(check_id, Status.UNKNOWN, detail=reason)


def not_applicable(check_id: str, reason: str) -> Check:
    """A check that has nothing to look at, rightly so."""
    return Check(check_id, Status.NOT_APPLICABLE, detail=reason)
