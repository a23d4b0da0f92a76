"""A verifier that has seen much answers as one that has seen nothing: what it remembers changes no check."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta

from tdxstack.abi.quote import CertificationData
from tdxstack.verification.policy import AllOf, AnyOf, AnyPolicy, Policy
from tdxstack.verification.quote import Verifier
from tdxstack.verification.tcb_info import TcbStatus
from tests.synthetic.certificates import pem
from tests.synthetic.chance import Chance
from tests.synthetic.evidence import ALLOW_EMULATED, Evidence, Workshop

LAX = replace(
    ALLOW_EMULATED,
    accepted_tcb_statuses=frozenset({TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE}),
    collateral_grace=timedelta(days=400),
    allow_debug=True,
)
POLICIES: tuple[AnyPolicy, ...] = (
    Policy(),
    ALLOW_EMULATED,
    LAX,
    replace(LAX, collateral_grace=timedelta(0)),
    replace(LAX, minimum_evaluation_number=21),
    replace(LAX, platform_grace=timedelta(days=700)),
    replace(ALLOW_EMULATED, expected={"mrtd": (bytes(48),)}),
    AnyOf((Policy(), LAX)),
    AllOf((ALLOW_EMULATED, LAX)),
)
DAYS = (0, 0, -1, 1, 40, -900)


def test_by_chance(shop: Workshop) -> None:
    """The same pieces of evidence again and again, under other policies and at other times, in any order."""
    chance, source = random.Random("warm"), Chance(shop, "warm")
    pieces = [source.evidence() for _ in range(12)]
    # Parts of one piece with those of another: what is remembered of each must not speak for the pair.
    pieces += [replace(pieces[number], collateral=pieces[number - 1].collateral) for number in range(6)]
    warm = Verifier(anchors=(shop.anchor,))
    for _ in range(120):
        piece, policy = chance.choice(pieces), chance.choice(POLICIES)
        time = piece.time + timedelta(days=chance.choice(DAYS))
        cold = Verifier(anchors=(shop.anchor,), policy=policy)
        expected = cold.verify(piece.quote, piece.collateral, time=time)
        found = warm.verify(piece.quote, piece.collateral, time=time, policy=policy)
        assert found.checks == expected.checks
        assert (found.tcb, found.pck, found.pck_ca, found.emulated) == (
            expected.tcb,
            expected.pck,
            expected.pck_ca,
            expected.emulated,
        )


def test_what_was_good_once_does_not_excuse_what_is_not(shop: Workshop, other_shop: Workshop) -> None:
    """One item of accepted evidence is replaced, the verifier having accepted the rest a moment before."""
    good = shop.evidence()
    warm = Verifier(anchors=good.anchors, policy=good.policy)
    signature = good.quote.signature
    worse: list[tuple[Evidence, str]] = [
        (good.but(pck_crl=shop.pck_crl(revoked=[shop.pck.serial_number])), "pck.revocation"),
        (good.but(pck_crl=other_shop.pck_crl()), "crl.pck"),
        (good.but(root_ca_crl=b""), "crl.root"),
        (good.but(tcb_info=shop.tcb_info(tcbLevels=[])), "tcb.status"),
        (good.but(tcb_info_issuer_chain=pem(other_shop.tcb_signing, other_shop.root)), "tcb_info.signature"),
        (good.but(time=good.time + timedelta(days=365)), "tcb_info.freshness"),
        (good.but(quote=replace(good.quote, body=shop.body(mrtd=bytes(48)))), "quote.signature"),
        (good.but(quote=shop.quote(pck_key=other_shop.pck_key)), "quote.qe_report_signature"),
        (good.but(quote=shop.quote(chain=other_shop.pck_chain())), "pck.trust_anchor"),
        (good.but(quote=shop.quote(certification=CertificationData(1, bytes(36)))), "pck.chain"),
        (
            good.but(quote=replace(good.quote, signature=replace(signature, qe_auth_data=b"x"))),
            "quote.qe_report_binding",
        ),
    ]
    for evidence, check in worse:
        assert warm.verify(good.quote, good.collateral, time=good.time).accepted
        found = warm.verify(evidence.quote, evidence.collateral, time=evidence.time)
        assert check in {failure.id for failure in found.failures()}
        assert [failure.id for failure in found.failures()] == evidence.failing()


def test_a_chain_that_is_given_does_not_stay(shop: Workshop) -> None:
    """A PCK chain from outside serves the one quote that it was given for."""
    bare = shop.quote(certification=CertificationData(2, b"\0" * 256 + shop.platform.cpusvn + b"\x0d\0\0\0"))
    good = shop.evidence()
    warm = Verifier(anchors=good.anchors, policy=good.policy)
    for _ in range(2):
        given = warm.verify(bare, good.collateral, time=good.time, pck_chain=shop.pck_chain())
        assert [check.id for check in given.failures()] == []
        without = warm.verify(bare, good.collateral, time=good.time)
        assert "pck.chain" in {check.id for check in without.failures()}
