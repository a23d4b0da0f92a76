"""What a PCK chain and collateral are worth at a time, whatever the quote says besides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from tdxstack.verification import pck, signed_documents
from tdxstack.verification.inputs import ParsedCollateral, Terms
from tdxstack.verification.pck import Pck
from tdxstack.verification.result import Check


@dataclass(frozen=True, slots=True)
class Standing:
    """The checks, by id, that know nothing of a quote but its PCK chain.

    They are the same at all times between `start` and the ends, when every item is current: `end` is the
    first end of a certificate, `collateral_end` that of an item to which the policy's grace applies.
    """

    checks: Mapping[str, Check]
    start: datetime
    end: datetime
    collateral_end: datetime

    @classmethod
    def of(cls, found: Pck, collateral: ParsedCollateral, terms: Terms) -> Standing:
        """Make the checks. Of the policy they ask collateral grace and evaluation number alone."""
        chains = (found.chain, collateral.tcb_info_chain, collateral.qe_identity_chain)
        certificates = [certificate for chain in chains for certificate in chain.value or ()]
        lists = [crl.value for crl in (collateral.root_ca_crl, collateral.pck_crl) if crl.value is not None]
        documents = [item.value for item in (collateral.tcb_info, collateral.qe_identity) if item.value]
        starts = [certificate.start for certificate in certificates] + [crl.start for crl in lists]
        starts += [item.issue_date for item in documents]
        ends = [crl.end for crl in lists if crl.end is not None] + [item.next_update for item in documents]
        return cls(
            checks={check.id: check for check in _checks(found, collateral, terms)},
            start=max(starts, default=_EARLIEST),
            end=min((certificate.end for certificate in certificates), default=_LATEST),
            collateral_end=min(ends, default=_LATEST),
        )

    def holds(self, time: datetime, grace: timedelta) -> bool:
        """Whether every item is current at `time`, given collateral grace."""
        return self.start <= time <= self.end and time - self.collateral_end <= grace


_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
_LATEST: Final = datetime.max.replace(tzinfo=UTC)


def _checks(found: Pck, collateral: ParsedCollateral, terms: Terms) -> tuple[Check, ...]:
    tcb_chain, qe_chain = collateral.tcb_info_chain, collateral.qe_identity_chain
    # Collateral must come from the root that certified the platform, as far as that one is known.
    crl, anchor = collateral.root_ca_crl, found.anchor
    tcb_signer = qe_signer = signed_documents.signing_problems(tcb_chain, crl, anchor, terms)
    if qe_chain is not tcb_chain:
        qe_signer = signed_documents.signing_problems(qe_chain, crl, anchor, terms)
    return (
        pck.check_chain(found, terms),
        pck.check_anchor(found, terms),
        pck.check_validity(found, terms),
        pck.check_revocation(found, collateral),
        pck.check_root_crl(found, collateral, terms),
        pck.check_pck_crl(found, collateral, terms),
        signed_documents.check_signature(
            "tcb_info.signature", collateral.tcb_info_document, tcb_chain, tcb_signer, terms
        ),
        signed_documents.check_freshness("tcb_info.freshness", collateral.tcb_info, terms),
        signed_documents.check_signature(
            "qe_identity.signature", collateral.qe_identity_document, qe_chain, qe_signer, terms
        ),
        signed_documents.check_freshness("qe_identity.freshness", collateral.qe_identity, terms),
    )
