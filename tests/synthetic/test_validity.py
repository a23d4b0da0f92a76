"""Each item of the evidence before, at and after the ends of its validity, to the second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from tests.synthetic.certificates import pem, remade
from tests.synthetic.evidence import NOW, Evidence, Workshop, stamp

START, END = NOW - timedelta(days=3), NOW + timedelta(days=3)
SECOND = timedelta(seconds=1)

Make = Callable[[Workshop, datetime, datetime], Evidence]
"""Evidence of which one item is valid from the first time to the second, and the rest for longer."""


def _pck(shop: Workshop, start: datetime, end: datetime) -> Evidence:
    pck = remade(shop.pck, shop.platform_ca_key, start=start, end=end)
    return shop.evidence(shop.quote(chain=pem(pck, shop.platform_ca, shop.root)))


def _platform_ca(shop: Workshop, start: datetime, end: datetime) -> Evidence:
    ca = remade(shop.platform_ca, shop.root_key, start=start, end=end)
    return shop.evidence(shop.quote(chain=pem(shop.pck, ca, shop.root)))


def _root(shop: Workshop, start: datetime, end: datetime) -> Evidence:
    root = remade(shop.root, shop.root_key, start=start, end=end)
    return shop.evidence(shop.quote(chain=pem(shop.pck, shop.platform_ca, root)))


def _tcb_signing(shop: Workshop, start: datetime, end: datetime) -> Evidence:
    signer = remade(shop.tcb_signing, shop.root_key, start=start, end=end)
    return shop.evidence(tcb_info_issuer_chain=pem(signer, shop.root))


def _root_of_tcb_signing(shop: Workshop, start: datetime, end: datetime) -> Evidence:
    root = remade(shop.root, shop.root_key, start=start, end=end)
    return shop.evidence(tcb_info_issuer_chain=pem(shop.tcb_signing, root))


def _qe_identity_signing(shop: Workshop, start: datetime, end: datetime) -> Evidence:
    signer = remade(shop.tcb_signing, shop.root_key, start=start, end=end)
    return shop.evidence(qe_identity_issuer_chain=pem(signer, shop.root))


def _root_crl(shop: Workshop, start: datetime, end: datetime) -> Evidence:
    return shop.evidence(root_ca_crl=shop.root_crl(start, valid_for=end - start))


def _pck_crl(shop: Workshop, start: datetime, end: datetime) -> Evidence:
    return shop.evidence(pck_crl=shop.pck_crl(start, valid_for=end - start))


def _tcb_info(shop: Workshop, start: datetime, end: datetime) -> Evidence:
    return shop.evidence(tcb_info=shop.tcb_info(issueDate=stamp(start), nextUpdate=stamp(end)))


def _qe_identity(shop: Workshop, start: datetime, end: datetime) -> Evidence:
    return shop.evidence(qe_identity=shop.qe_identity(issueDate=stamp(start), nextUpdate=stamp(end)))


ITEMS: dict[str, tuple[Make, str]] = {
    "pck": (_pck, "pck.validity"),
    "platform-ca": (_platform_ca, "pck.validity"),
    "root": (_root, "pck.validity"),
    "tcb-signing": (_tcb_signing, "tcb_info.signature"),
    "root-of-tcb-signing": (_root_of_tcb_signing, "tcb_info.signature"),
    "qe-identity-signing": (_qe_identity_signing, "qe_identity.signature"),
    "root-crl": (_root_crl, "crl.root"),
    "pck-crl": (_pck_crl, "crl.pck"),
    "tcb-info": (_tcb_info, "tcb_info.freshness"),
    "qe-identity": (_qe_identity, "qe_identity.freshness"),
}


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A platform whose other collateral is current from well before START until well after END."""
    return Workshop(tmp_path_factory.mktemp("validity"), NOW - timedelta(days=10))


@pytest.mark.parametrize("item", ITEMS)
def test_boundaries(longer: Workshop, item: str) -> None:
    """Both ends belong to the validity, as in RFC 5280; half a second after the end is after it."""
    make, check = ITEMS[item]
    evidence = make(longer, START, END)
    for time, valid in (
        (START - SECOND, False),
        (START, True),
        (START + SECOND, True),
        (END - SECOND, True),
        (END, True),
        (END + SECOND / 2, False),
        (END + SECOND, False),
    ):
        assert evidence.but(time=time).failing() == ([] if valid else [check]), time


@pytest.mark.parametrize("item", ITEMS)
def test_expired_and_not_yet_valid_items(longer: Workshop, item: str) -> None:
    make, check = ITEMS[item]
    for days in (-2, 2):
        away = timedelta(days=days)
        past = make(longer, NOW + away - timedelta(days=1), NOW + away + timedelta(days=1))
        assert past.failing() == [check]


@pytest.mark.parametrize("item", ITEMS)
def test_validity_that_ends_before_it_begins_is_none(longer: Workshop, item: str) -> None:
    make, check = ITEMS[item]
    if item in ("tcb-info", "qe-identity"):
        evidence = make(longer, END, START)
        for time in (START, NOW, END):
            assert evidence.but(time=time).failing() == [check]
    else:
        with pytest.raises(ValueError, match=r"before|after"):
            make(longer, END, START)


@pytest.mark.parametrize("zone", [timedelta(hours=14), timedelta(hours=-12), timedelta(hours=5, minutes=45)])
def test_an_instant_is_the_same_in_every_zone(longer: Workshop, zone: timedelta) -> None:
    evidence = _tcb_info(longer, START, END)
    assert evidence.but(time=END.astimezone(timezone(zone))).failing() == []
    late = (END + SECOND).astimezone(timezone(zone))
    assert evidence.but(time=late).failing() == ["tcb_info.freshness"]


def test_grace_is_for_the_end_alone(longer: Workshop) -> None:
    """Collateral may be late by policy; it may not be early, and certificates have no grace."""
    grace = replace(_pck(longer, START, END).policy, collateral_grace=timedelta(days=2))
    for item, (make, check) in ITEMS.items():
        evidence = make(longer, START, END).but(policy=grace)
        graced = item in ("root-crl", "pck-crl", "tcb-info", "qe-identity")
        assert evidence.but(time=START - SECOND).failing() == [check]
        assert evidence.but(time=END + SECOND).failing() == ([] if graced else [check])
        assert evidence.but(time=END + timedelta(days=2)).failing() == ([] if graced else [check])
        assert evidence.but(time=END + timedelta(days=2) + SECOND).failing() == [check]
