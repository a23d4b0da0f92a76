"""What a policy demands of the platform besides its TCB status: advisories, FMSPC, certificate authority."""

from __future__ import annotations

from collections.abc import Iterator

from tdxstack.verification.pck import Pck
from tdxstack.verification.policy import PCK_CAS, Policy
from tdxstack.verification.result import Check, judged, unknown
from tdxstack.verification.tcb import Tcb


def check_platform_demands(pck: Pck, tcb: Tcb, policy: Policy) -> Iterator[Check]:
    """tcb.advisories, pck.fmspc and pck.ca, as far as the policy says something of them."""
    if policy.allowed_advisories is not None or policy.denied_advisories:
        yield check_advisories(tcb, policy)
    if policy.fmspcs is not None:
        yield check_fmspc(pck, policy.fmspcs)
    if policy.pck_cas != frozenset(PCK_CAS):
        yield check_ca(pck, policy.pck_cas)


def check_advisories(tcb: Tcb, policy: Policy) -> Check:
    """tcb.advisories: the platform is subject to no advisory that the policy denies or does not allow."""
    evaluation = tcb.evaluation
    if evaluation is None:
        return unknown("tcb.advisories", tcb.problem or tcb.qe_problem)
    found = set(evaluation.advisories)
    bad = found & policy.denied_advisories
    expected = []
    if policy.allowed_advisories is not None:
        bad |= found - policy.allowed_advisories
        expected.append("only " + (", ".join(sorted(policy.allowed_advisories)) or "none at all"))
    if policy.denied_advisories:
        expected.append("none of " + ", ".join(sorted(policy.denied_advisories)))
    return judged(
        "tcb.advisories",
        not bad,
        "; ".join(expected),
        ", ".join(evaluation.advisories) or "none",
        f"not accepted: {', '.join(sorted(bad))}",
    )


def check_fmspc(pck: Pck, fmspcs: frozenset[bytes]) -> Check:
    """pck.fmspc: the platform is of a kind that the policy names."""
    extension = pck.extension.value
    if extension is None:
        return unknown("pck.fmspc", pck.extension.problem)
    return judged(
        "pck.fmspc",
        extension.fmspc in fmspcs,
        " or ".join(sorted(fmspc.hex() for fmspc in fmspcs)) or "nothing",
        extension.fmspc.hex(),
        "the policy does not accept this kind of platform",
    )


def check_ca(pck: Pck, authorities: frozenset[str]) -> Check:
    """pck.ca: the PCK certificate is issued by an authority that the policy names."""
    if pck.chain.value is None:
        return unknown("pck.ca", pck.chain.problem)
    return judged(
        "pck.ca",
        pck.ca in authorities,
        " or ".join(sorted(authorities)) or "nothing",
        pck.ca or "another",
        "the policy does not accept PCK certificates of this authority",
    )
