"""Collateral read once: each item by itself, so that a damaged one spoils only the checks that need it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from tdxstack.collateral.bundle import QE_IDENTITY, TCB_INFO, Collateral
from tdxstack.collateral.signed_json import SignedJson
from tdxstack.errors import MalformedError
from tdxstack.verification.certificates import Certificate, Chain, TrustAnchor, read_chain
from tdxstack.verification.chains import RevocationList
from tdxstack.verification.memo import Memo
from tdxstack.verification.policy import Policy
from tdxstack.verification.qe_identity import QeIdentity
from tdxstack.verification.signatures import SignatureMemory
from tdxstack.verification.tcb_info import TcbInfo

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T]):
    """An item that could be read, or the reason why not."""

    value: T | None
    problem: str = ""

    def then(self, read: Callable[[T], U]) -> Loaded[U]:
        """What `read` makes of the value; a missing value or a `MalformedError` becomes the problem."""
        value = self.value
        return Loaded(None, self.problem) if value is None else load(lambda: read(value))


def load(read: Callable[[], T]) -> Loaded[T]:
    """What `read` returns, or the `MalformedError` that it raises, as the problem."""
    try:
        return Loaded(read())
    except MalformedError as error:
        return Loaded(None, error.message)


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a quote is verified: as of when, trusting whom, demanding what."""

    time: datetime
    anchors: tuple[TrustAnchor, ...]
    policy: Policy
    memory: SignatureMemory


@dataclass(frozen=True, slots=True, eq=False)
class ParsedCollateral:
    """Collateral, parsed but not verified. It can serve any number of verifications."""

    pck_crl_issuer_chain: bytes
    """PEM, read only for quotes that hold a PCK certificate without its chain."""

    root_ca_crl: Loaded[RevocationList]
    pck_crl: Loaded[RevocationList]
    tcb_info_chain: Loaded[Chain]
    tcb_info_document: Loaded[SignedJson]
    tcb_info: Loaded[TcbInfo]
    qe_identity_chain: Loaded[Chain]
    qe_identity_document: Loaded[SignedJson]
    qe_identity: Loaded[QeIdentity]

    @classmethod
    def parse(cls, collateral: Collateral, known: Memo[bytes, Certificate] | None = None) -> ParsedCollateral:
        """Read every item; what cannot be read is told by the checks that need it."""
        tcb_info = load(lambda: SignedJson.parse(collateral.tcb_info, TCB_INFO))
        qe_identity = load(lambda: SignedJson.parse(collateral.qe_identity, QE_IDENTITY))
        tcb_info_chain = load(lambda: read_chain(collateral.tcb_info_issuer_chain, known))
        one_signer = collateral.qe_identity_issuer_chain == collateral.tcb_info_issuer_chain
        return cls(
            pck_crl_issuer_chain=collateral.pck_crl_issuer_chain,
            root_ca_crl=load(lambda: RevocationList.parse(collateral.root_ca_crl)),
            pck_crl=load(lambda: RevocationList.parse(collateral.pck_crl)),
            tcb_info_chain=tcb_info_chain,
            tcb_info_document=tcb_info,
            tcb_info=tcb_info.then(lambda document: TcbInfo.parse(document.value)),
            qe_identity_chain=tcb_info_chain
            if one_signer
            else load(lambda: read_chain(collateral.qe_identity_issuer_chain, known)),
            qe_identity_document=qe_identity,
            qe_identity=qe_identity.then(lambda document: QeIdentity.parse(document.value)),
        )
