"""Verification of quotes: every check, what the platform is, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tdxstack.abi.quote import CertificationData, Quote
from tdxstack.collateral.bundle import Collateral
from tdxstack.errors import UsageError
from tdxstack.verification import result, tcb, td
from tdxstack.verification.certificates import INTEL_SGX_ROOT_CA, MAX_CHAIN_SIZE, Certificate, TrustAnchor
from tdxstack.verification.chains import stamp
from tdxstack.verification.inputs import ParsedCollateral, Terms
from tdxstack.verification.judgement import judge
from tdxstack.verification.memo import Memo
from tdxstack.verification.pck import Pck
from tdxstack.verification.policy import AnyPolicy, Policy
from tdxstack.verification.policy_checks import check_platform_demands
from tdxstack.verification.quote_checks import (
    check_certification,
    check_emulated,
    check_format,
    check_qe_report_binding,
    check_qe_report_signature,
    check_signature,
)
from tdxstack.verification.quote_facts import pck_facts, quote_facts
from tdxstack.verification.result import Check, Status
from tdxstack.verification.sgx_extension import SgxExtension
from tdxstack.verification.shortfalls import Shortfall
from tdxstack.verification.signatures import SignatureMemory
from tdxstack.verification.standing import Standing
from tdxstack.verification.tcb import PlatformSvns, Tcb
from tdxstack.verification.tcb_info import TcbStatus

QUOTE_CHECKS: Final = (
    "quote.format",
    "quote.certification",
    "quote.signature",
    "quote.qe_report_signature",
    "quote.qe_report_binding",
    "pck.chain",
    "pck.trust_anchor",
    "pck.validity",
    "pck.revocation",
    "crl.root",
    "crl.pck",
    "tcb_info.signature",
    "tcb_info.freshness",
    "tcb_info.fmspc",
    "tcb.module",
    "tcb.status",
    "qe_identity.signature",
    "qe_identity.freshness",
    "qe.identity",
    "qe.status",
    "td.debug",
    "td.attributes",
    "emulated.allowed",
)
"""The ids of the checks in every result of `Verifier.verify`, in this order; `POLICY_CHECKS` may follow."""

POLICY_CHECKS: Final = (
    "tcb.advisories",
    "pck.fmspc",
    "pck.ca",
    "td.service_td",
    "td.nonce",
    "td.expected.*",
    "policy.any_of",
    "policy.all_of",
)
"""The ids of the checks that are made where a policy asks for them; `*` stands for a register's name."""

_MAX_CERTIFICATES: Final = 1024
_MAX_PCKS: Final = 256
_MAX_COLLATERAL: Final = 16

_StandingKey = tuple[Pck, ParsedCollateral, timedelta, int]


@dataclass(frozen=True, slots=True)
class TcbOutcome:
    """How good the platform is. `advisories` are sorted; `current_status` is there for TDX 1.5 only.

    `date` is that of the TCB level reached, None if none is; `latest_date` that of the best level, which the
    TCB evaluation `evaluation_number` asks for.
    """

    status: TcbStatus
    date: datetime | None
    latest_date: datetime | None
    advisories: tuple[str, ...]
    shortfalls: tuple[Shortfall, ...]
    evaluation_number: int
    current_status: TcbStatus | None

    def to_json(self) -> dict[str, Any]:
        """Intel's names, the date in ISO 8601, shortfalls with their parts."""
        return {
            "status": self.status.value,
            "date": stamp(self.date) if self.date else None,
            "latest_date": stamp(self.latest_date) if self.latest_date else None,
            "advisory_ids": list(self.advisories),
            "evaluation_number": self.evaluation_number,
            "current_status": self.current_status.value if self.current_status else None,
            "shortfalls": [shortfall.to_json() for shortfall in self.shortfalls],
        }


@dataclass(frozen=True, slots=True)
class QuoteResult:
    """The outcome of `Verifier.verify`: every check, and what could be learnt of TCB and PCK certificate."""

    quote: Quote
    checks: tuple[Check, ...]
    tcb: TcbOutcome | None
    pck: SgxExtension | None
    pck_ca: str
    emulated: bool

    @property
    def verdict(self) -> str:
        """`accepted` or `rejected`."""
        return result.verdict(self.checks)

    @property
    def accepted(self) -> bool:
        """Whether every check passed or does not apply."""
        return self.verdict == result.ACCEPTED

    def failures(self) -> list[Check]:
        """The checks that forbid acceptance."""
        return [check for check in self.checks if check.status in (Status.FAIL, Status.UNKNOWN)]

    def to_json(self) -> dict[str, Any]:
        """verdict, emulated, tcb_status, advisory_ids, tcb, pck, quote (as `quote_facts`), checks."""
        return {
            "verdict": self.verdict,
            "emulated": self.emulated,
            "tcb_status": self.tcb.status.value if self.tcb else None,
            "advisory_ids": list(self.tcb.advisories) if self.tcb else [],
            "tcb": self.tcb.to_json() if self.tcb else None,
            "pck": pck_facts(self.pck, self.pck_ca) if self.pck else None,
            "quote": quote_facts(self.quote),
            "checks": [check.to_json() for check in self.checks],
        }


class Verifier:
    """Verifies quotes under one policy, trusting `anchors`, and remembers what quotes have in common.

    Remembered are, by their bytes: collateral and certificates as read, signatures that were found good, and
    what a PCK chain and collateral are worth while all of them are current; any other time is judged anew.
    Memory is bounded, and threads may share a verifier.
    """

    __slots__ = (
        "_anchors",
        "_certificates",
        "_collateral",
        "_pcks",
        "_platforms",
        "_policy",
        "_signatures",
        "_standings",
    )

    def __init__(
        self, *, anchors: Sequence[TrustAnchor] = (INTEL_SGX_ROOT_CA,), policy: AnyPolicy | None = None
    ) -> None:
        """The default policy is the strict one. Raises `UsageError` if there is no anchor."""
        if not anchors:
            raise UsageError("there is no trust anchor", hint="give at least one root to trust")
        self._anchors = tuple(anchors)
        self._policy = policy or Policy()
        self._signatures = SignatureMemory()
        for anchor in self._anchors:
            self._signatures.trust(anchor.public_key_der, anchor.signature, anchor.signed_digest)
        self._certificates: Memo[bytes, Certificate] = Memo(_MAX_CERTIFICATES)
        self._collateral: Memo[Collateral, ParsedCollateral] = Memo(_MAX_COLLATERAL)
        self._pcks: Memo[tuple[CertificationData, bytes | None, bytes], Pck] = Memo(_MAX_PCKS)
        self._platforms: Memo[tuple[Pck, ParsedCollateral, PlatformSvns], Tcb] = Memo(_MAX_PCKS)
        self._standings: Memo[_StandingKey, Standing] = Memo(_MAX_PCKS)

    def verify(
        self,
        quote: Quote,
        collateral: Collateral | ParsedCollateral,
        *,
        time: datetime,
        pck_chain: bytes | None = None,
        policy: AnyPolicy | None = None,
    ) -> QuoteResult:
        """Verify `quote` as of `time`.

        `pck_chain` (PEM) replaces the PCK chain of the quote; quotes with certification data 1, 2, 3 have
        none. `policy` replaces the verifier's for this quote, as a nonce requires. Bad evidence gives failed
        checks, never an exception. Raises `UsageError` for a time without a time zone.
        """
        time = in_utc(time)
        parsed = self._parsed(collateral)
        found = self._pck(quote.signature.certification, parsed, pck_chain)
        svns = PlatformSvns.of(quote)
        platform = self._platforms.get(
            (found, parsed, svns),
            lambda: Tcb.of(parsed.tcb_info, parsed.qe_identity, found.extension, svns),
        )
        signed = check_signature(quote)

        def check(one: Policy) -> tuple[Check, ...]:
            terms = Terms(time, self._anchors, one, self._signatures)
            return self._checks(quote, signed, found, parsed, platform, terms)

        checks = judge(policy or self._policy, check)
        extension = found.extension.value
        return QuoteResult(
            quote, checks, _outcome(platform, parsed), extension, found.ca, bool(found.emulation)
        )

    def _checks(
        self,
        quote: Quote,
        signed: Check,
        found: Pck,
        collateral: ParsedCollateral,
        platform: Tcb,
        terms: Terms,
    ) -> tuple[Check, ...]:
        """Every check under the policy in `terms`, in the order of `QUOTE_CHECKS`."""
        policy = terms.policy
        own = (
            check_format(quote),
            check_certification(quote, found),
            signed,
            check_qe_report_signature(quote, found, terms),
            check_qe_report_binding(quote),
            tcb.check_platform(collateral.tcb_info, found.extension, quote.body),
            tcb.check_module(collateral.tcb_info, quote.body),
            tcb.check_status(platform, terms),
            tcb.check_qe_identity(collateral.qe_identity, quote.signature.qe_report, quote.body),
            tcb.check_qe_status(platform, terms),
            td.check_debug(quote.body, policy),
            td.check_attributes(quote.body, policy),
            check_emulated(found, policy),
        )
        checks = {**self._standing(found, collateral, terms).checks, **{check.id: check for check in own}}
        return (
            *(checks[check_id] for check_id in QUOTE_CHECKS),
            *check_platform_demands(found, platform, policy),
            *td.check_demands(quote.body, policy),
        )

    def _standing(self, found: Pck, collateral: ParsedCollateral, terms: Terms) -> Standing:
        grace = terms.policy.collateral_grace
        key = (found, collateral, grace, terms.policy.minimum_evaluation_number)
        standing = self._standings.find(key)
        if standing is None or not standing.holds(terms.time, grace):
            standing = Standing.of(found, collateral, terms)
            if standing.holds(terms.time, grace):
                self._standings.keep(key, standing)
        return standing

    def _parsed(self, collateral: Collateral | ParsedCollateral) -> ParsedCollateral:
        if isinstance(collateral, ParsedCollateral):
            return collateral
        return self._collateral.get(
            collateral, lambda: ParsedCollateral.parse(collateral, self._certificates)
        )

    def _pck(
        self, certification: CertificationData, collateral: ParsedCollateral, pck_chain: bytes | None
    ) -> Pck:
        anchors, known = self._anchors, self._certificates
        if len(certification.data) > MAX_CHAIN_SIZE:
            return Pck.of(certification, collateral, anchors, pck_chain)
        return self._pcks.get(
            (certification, pck_chain, collateral.pck_crl_issuer_chain),
            lambda: Pck.of(certification, collateral, anchors, pck_chain, known),
        )


def verify_quote(
    quote: Quote,
    collateral: Collateral | ParsedCollateral,
    *,
    time: datetime,
    anchors: Sequence[TrustAnchor] = (INTEL_SGX_ROOT_CA,),
    policy: AnyPolicy | None = None,
    pck_chain: bytes | None = None,
) -> QuoteResult:
    """Verify one quote with a `Verifier` of its own; parameters and `UsageError` are the verifier's."""
    verifier = Verifier(anchors=anchors, policy=policy)
    return verifier.verify(quote, collateral, time=time, pck_chain=pck_chain)


def in_utc(time: datetime) -> datetime:
    """`time` in UTC. Raises `UsageError` if it has no time zone or no equivalent there."""
    try:
        if time.tzinfo is not None:
            return time.astimezone(UTC)
    except OverflowError:
        pass
    raise UsageError(f"{time} is no time to verify at", hint="give a time with a time zone")


def _outcome(platform: Tcb, collateral: ParsedCollateral) -> TcbOutcome | None:
    evaluation, info = platform.evaluation, collateral.tcb_info.value
    if evaluation is None or info is None or platform.qe_problem:
        return None
    return TcbOutcome(
        status=evaluation.status,
        date=evaluation.date,
        latest_date=info.levels[0].date if info.levels else None,
        advisories=evaluation.advisories,
        shortfalls=evaluation.shortfalls + platform.qe_shortfalls,
        evaluation_number=info.evaluation_number,
        current_status=evaluation.current_status,
    )
