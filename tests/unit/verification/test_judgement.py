from __future__ import annotations

from tdxstack.verification.judgement import judge
from tdxstack.verification.policy import AllOf, AnyOf, Policy
from tdxstack.verification.result import Check, Status, fail, not_applicable, ok, unknown, verdict

LAX, STRICT = Policy(name="lax"), Policy(name="strict", minimum_evaluation_number=1)
FIRST, SECOND = Policy(name="first", pck_cas=frozenset()), Policy(name="second", fmspcs=frozenset())


def check(policy: Policy) -> tuple[Check, ...]:
    """A quote that LAX accepts and STRICT does not; FIRST and SECOND fail in one way more each."""
    return (
        not_applicable("always", "never a problem"),
        ok("level", "0", "0") if policy == LAX else fail("level", "1", "0", "too low"),
        *([fail("ca", "none", "platform", "no authority")] if policy == FIRST else []),
        *([unknown("fmspc", "it cannot be read")] if policy == SECOND else []),
    )


def failing(checks: tuple[Check, ...]) -> dict[str, str]:
    return {check.id: check.detail for check in checks if check.status in (Status.FAIL, Status.UNKNOWN)}


def test_a_single_policy_is_its_own_judgement() -> None:
    assert judge(LAX, check) == check(LAX)


def test_all_of_accepts_what_every_member_accepts() -> None:
    assert verdict(judge(AllOf((LAX, LAX)), check)) == "accepted"
    checks = judge(AllOf((LAX, STRICT)), check)
    assert failing(checks) == {"level": "too low"}
    assert [check.id for check in checks] == ["always", "level"]


def test_all_of_reports_every_failure_once() -> None:
    checks = judge(AllOf((FIRST, SECOND)), check)
    assert failing(checks) == {"level": "too low", "ca": "no authority", "fmspc": "it cannot be read"}


def test_all_of_tells_failures_of_one_check_together() -> None:
    def of_policy(policy: Policy) -> tuple[Check, ...]:
        return (fail("level", f"that of {policy.name}", "0", f"{policy.name} says no"),)

    (merged,) = judge(AllOf((FIRST, SECOND)), of_policy)
    assert merged.expected == "that of first; and that of second"
    assert merged.detail == "first says no; second says no"


def test_any_of_takes_the_checks_of_the_first_that_accepts() -> None:
    checks = judge(AnyOf((STRICT, LAX, FIRST)), check)
    assert verdict(checks) == "accepted"
    assert checks[:-1] == check(LAX)
    assert checks[-1].id == "policy.any_of"
    assert checks[-1].found == "any_of[1] (lax)"


def test_any_of_says_why_each_member_failed() -> None:
    checks = judge(AnyOf((FIRST, SECOND)), check)
    assert set(failing(checks)) == {"level", "ca", "policy.any_of"}
    assert checks[-1].detail == (
        "each of them: level (too low: 0); any_of[0] (first): ca (no authority: platform);"
        " any_of[1] (second): fmspc (it cannot be read)"
    )


def test_the_nearest_alternative_makes_the_checks() -> None:
    checks = judge(AnyOf((FIRST, STRICT)), check)
    assert set(failing(checks)) == {"level", "policy.any_of"}
    assert "any_of[1] (strict): nothing else" in checks[-1].detail


def test_nested_combinations_tell_their_place() -> None:
    checks = judge(AllOf((LAX, AnyOf((STRICT, LAX)))), check)
    assert verdict(checks) == "accepted"
    assert checks[-1].id == "policy.all_of[1].any_of"
    rejected = judge(AnyOf((AnyOf((STRICT,)), AllOf((LAX, FIRST)))), check)
    assert verdict(rejected) == "rejected"
    assert {"policy.any_of", "policy.any_of[0].any_of"} <= {check.id for check in rejected}


def test_a_combination_of_nothing_rejects() -> None:
    for empty in (AnyOf(()), AllOf(())):
        assert verdict(judge(empty, lambda policy: (ok("level", "0", "0"),))) == "rejected"
    assert verdict(judge(AllOf((LAX, AnyOf(()))), check)) == "rejected"
    assert verdict(judge(AnyOf((LAX, AnyOf(()))), check)) == "accepted"
