"""One verdict from the checks of several policies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from tdxstack.verification import result
from tdxstack.verification.policy import AllOf, AnyPolicy, Policy
from tdxstack.verification.result import Check, Status, fail, ok

Checks = tuple[Check, ...]

_BRIEF = 80
_BADNESS = (Status.FAIL, Status.UNKNOWN, Status.WARNING, Status.OK, Status.NOT_APPLICABLE)


def judge(policy: AnyPolicy, check: Callable[[Policy], Checks], place: str = "policy") -> Checks:
    """The checks of `policy`, each id once, given what `check` finds under a single `Policy`.

    Of alternatives those checks count that the first accepting one made, or else the one with the fewest
    failures; the check `PLACE.any_of` says which, or why each failed.
    """
    if isinstance(policy, Policy):
        return check(policy)
    kind = "all_of" if isinstance(policy, AllOf) else "any_of"
    place = f"{place}.{kind}"
    outcomes = [judge(member, check, f"{place}[{number}]") for number, member in enumerate(policy.members)]
    if not outcomes:
        # What is genuine has been checked nowhere, so a strict policy makes the other checks.
        return (
            *check(Policy()),
            fail(place, "at least one policy", "none", "an empty policy accepts nothing"),
        )
    if isinstance(policy, AllOf):
        return _merged(outcomes)
    return _chosen(policy.members, outcomes, place)


def _merged(outcomes: Iterable[Checks]) -> Checks:
    """Each check once, the worst of its outcomes; several that failed in different ways tell all of them."""
    by_id: dict[str, list[Check]] = {}
    for check in (check for checks in outcomes for check in checks):
        by_id.setdefault(check.id, []).append(check)
    return tuple(_worst(checks) for checks in by_id.values())


def _worst(checks: Sequence[Check]) -> Check:
    worst = min((check.status for check in checks), key=_BADNESS.index)
    equals = list(dict.fromkeys(check for check in checks if check.status is worst))
    if len(equals) == 1 or worst not in (Status.FAIL, Status.UNKNOWN, Status.WARNING):
        return equals[0]
    return replace(
        equals[0],
        expected="; and ".join(dict.fromkeys(check.expected for check in equals if check.expected)),
        detail="; ".join(dict.fromkeys(check.detail for check in equals if check.detail)),
    )


def _chosen(members: Sequence[AnyPolicy], outcomes: Sequence[Checks], place: str) -> Checks:
    names = [f"any_of[{number}]{_named(member)}" for number, member in enumerate(members)]
    expected = "one of " + ", ".join(names)
    for name, checks in zip(names, outcomes, strict=True):
        if result.verdict(checks) == result.ACCEPTED:
            return (*checks, ok(place, expected, name))
    failures = [_failures(checks) for checks in outcomes]
    shared = set.intersection(*(set(found) for found in failures))
    reasons = [f"{name}: {_told(found, without=shared)}" for name, found in zip(names, failures, strict=True)]
    if shared:
        reasons.insert(0, f"each of them: {_told([check for check in failures[0] if check in shared])}")
    nearest = min(outcomes, key=lambda checks: len(_failures(checks)))
    return (*nearest, fail(place, expected, "none", "; ".join(reasons)))


def _failures(checks: Checks) -> list[Check]:
    return [check for check in checks if check.status in (Status.FAIL, Status.UNKNOWN)]


def _told(checks: Iterable[Check], without: Iterable[Check] = ()) -> str:
    return ", ".join(_reason(check) for check in checks if check not in without) or "nothing else"


def _reason(check: Check) -> str:
    """Why it failed, in brief, and what was found. A long story is told by the check itself."""
    detail = check.detail if len(check.detail) <= _BRIEF or not check.found else ""
    return f"{check.id} ({': '.join(text for text in (detail, check.found) if text)})"


def _named(policy: AnyPolicy) -> str:
    return f" ({policy.name})" if policy.name else ""
