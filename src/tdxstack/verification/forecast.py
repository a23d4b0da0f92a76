"""What will become of a verdict when other collateral takes effect, such as Intel's `update=early` set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tdxstack.verification.quote import QuoteResult
from tdxstack.verification.result import Status


@dataclass(frozen=True, slots=True)
class Change:
    """A check whose status changes; None where it is not made. `detail` is why, if it is bad then."""

    id: str
    now: Status | None
    then: Status | None
    detail: str

    def to_json(self) -> dict[str, str | None]:
        """The four fields by name."""
        return {"id": self.id, "now": self.now, "then": self.then, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Forecast:
    """A quote verified by one `Verifier` as of one time, with the collateral of now and with that of then.

    `then.tcb` says from which TCB evaluation number and TCB date on the verdict is the later one.
    """

    now: QuoteResult
    then: QuoteResult

    @property
    def changes(self) -> tuple[Change, ...]:
        """What differs, in the order of the checks."""
        now = {check.id: check for check in self.now.checks}
        then = {check.id: check for check in self.then.checks}
        changes = []
        for check_id in now | then:
            before, after = now.get(check_id), then.get(check_id)
            old, new = before.status if before else None, after.status if after else None
            if old is not new:
                changes.append(Change(check_id, old, new, after.detail if after else ""))
        return tuple(changes)

    def to_json(self) -> dict[str, Any]:
        """now and then, each {verdict, tcb_status, advisory_ids, tcb}; changes {id, now, then, detail}."""
        return {
            "now": _summary(self.now),
            "then": _summary(self.then),
            "changes": [change.to_json() for change in self.changes],
        }


def _summary(result: QuoteResult) -> dict[str, Any]:
    document = result.to_json()
    return {name: document[name] for name in ("verdict", "tcb_status", "advisory_ids", "tcb")}
