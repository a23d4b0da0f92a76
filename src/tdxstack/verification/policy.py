"""What a relying party accepts. The defaults are strict, and policies compose.

A policy speaks of evidence that is genuine: signatures, chains, revocation and the identity of TDX module and
quoting enclave are verified whatever it says, and no policy can turn that off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from tdxstack.errors import UsageError
from tdxstack.verification.tcb_info import TcbStatus

PCK_CAS: Final = ("platform", "processor")
"""Intel's two authorities that issue PCK certificates."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What to demand of a quote besides that it is genuine; all of it must hold.

    `expected` maps names of quote body fields ("mrtd", "rtmr0", "report_data", ...; for SGX "mrenclave", ...)
    to the values that they may have. `required_attributes` and `forbidden_attributes` are TD ATTRIBUTES bits
    that must be set and must not. `name` is for people.
    """

    name: str = ""
    accepted_tcb_statuses: frozenset[TcbStatus] = frozenset({TcbStatus.UP_TO_DATE})
    allowed_advisories: frozenset[str] | None = None
    """If given, the platform may be subject to no other advisory than these."""

    denied_advisories: frozenset[str] = frozenset()
    minimum_evaluation_number: int = 0
    """The lowest tcbEvaluationDataNumber that TCB info and QE identity may have."""

    collateral_grace: timedelta = timedelta(0)
    """How long collateral is taken after its nextUpdate."""

    platform_grace: timedelta | None = None
    """If given, an accepted OutOfDate status counts only so long after the date of the TCB level."""

    allow_debug: bool = False
    allow_emulated: bool = False
    required_attributes: int = 0
    forbidden_attributes: int = 0
    service_tds: frozenset[bytes] | None = None
    """Values of MRSERVICETD, 48 bytes each, zero for no service TD; None: any, with a warning for one."""

    fmspcs: frozenset[bytes] | None = None
    """If given, the only FMSPCs (6 bytes) that platforms may have."""

    pck_cas: frozenset[str] = frozenset(PCK_CAS)
    """Which of `PCK_CAS` may have issued the PCK certificate."""

    nonce: bytes | None = None
    """32 bytes. If given, REPORTDATA must bind it and `bound_key` as `evidence.binding.report_data` does."""

    bound_key: bytes = b""
    """SSH public key as its wire blob; empty: the nonce alone is bound."""

    expected: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AllOf:
    """Accepts what every one of `members` accepts; without members, nothing."""

    members: tuple[AnyPolicy, ...]
    name: str = ""


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Accepts what at least one of `members` accepts; without members, nothing."""

    members: tuple[AnyPolicy, ...]
    name: str = ""


AnyPolicy = Policy | AllOf | AnyOf


def each(policy: AnyPolicy, change: Callable[[Policy], Policy]) -> AnyPolicy:
    """`policy` with every `Policy` in it changed."""
    if isinstance(policy, Policy):
        return change(policy)
    return replace(policy, members=tuple(each(member, change) for member in policy.members))


def expecting(policy: AnyPolicy, name: str, value: bytes) -> AnyPolicy:
    """`policy` that demands besides that the field `name` of the quote's body be `value`."""

    def narrow(one: Policy) -> Policy:
        allowed = one.expected.get(name, (value,))
        return replace(
            one, expected={**one.expected, name: tuple(other for other in allowed if other == value)}
        )

    return each(policy, narrow)


def binding(policy: AnyPolicy, nonce: bytes, bound_key: bytes = b"") -> AnyPolicy:
    """`policy` that demands besides that REPORTDATA bind the nonce and the key.

    An empty key stands for the policy's own, or for none if it has none. Raises `UsageError` if the
    policy already demands another nonce or key.
    """

    def bind(one: Policy) -> Policy:
        key = bound_key or one.bound_key
        if one.nonce not in (None, nonce) or one.bound_key not in (b"", key):
            raise UsageError(
                "the policy demands another nonce or key than was asked for",
                hint="leave nonce and bound_key out of the policy, or ask for the same",
            )
        return replace(one, nonce=nonce, bound_key=key)

    return each(policy, bind)
