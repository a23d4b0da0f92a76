"""Quotes and collateral of the emulated platform before dcap-qvl, a verifier that others have written."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tdxstack.collateral.bundle import Collateral
from tdxstack.quoting.enclave import QuotingEnclave
from tdxstack.quoting.pki import Pki

from .conftest import NOW, make_report

dcap_qvl = pytest.importorskip("dcap_qvl")


def verdict(pki: Pki, quote: bytes, *, collateral: Collateral | None = None, days: int = 0) -> Any:
    bundle = dcap_qvl.QuoteCollateralV3.from_json(
        (collateral or pki.collateral()).to_dcap_qvl_json().decode()
    )
    at = int((NOW + timedelta(days=days)).timestamp())
    return dcap_qvl.verify_with_root_ca(quote, bundle, pki.trust_anchor.public_bytes(Encoding.DER), at)


@pytest.mark.parametrize("version", [4, 5])
def test_dcap_qvl_finds_the_platform_up_to_date(pki: Pki, version: int) -> None:
    quote = QuotingEnclave(pki, quote_version=version).quote(make_report(pki).to_bytes())
    report = verdict(pki, quote)
    assert (report.status, report.advisory_ids) == ("UpToDate", [])


@pytest.mark.parametrize("at", [100, 600, 700, 800, 1600])
def test_dcap_qvl_refuses_a_changed_quote(pki: Pki, enclave: QuotingEnclave, at: int) -> None:
    quote = bytearray(enclave.quote(make_report(pki).to_bytes()))
    quote[at] ^= 1
    with pytest.raises(ValueError):
        verdict(pki, bytes(quote))


def test_dcap_qvl_refuses_collateral_past_its_date(pki: Pki, enclave: QuotingEnclave) -> None:
    quote = enclave.quote(make_report(pki).to_bytes())
    assert verdict(pki, quote, days=29).status == "UpToDate"
    with pytest.raises(ValueError):
        verdict(pki, quote, days=31)


def test_dcap_qvl_refuses_a_changed_tcb_info(pki: Pki, enclave: QuotingEnclave) -> None:
    quote = enclave.quote(make_report(pki).to_bytes())
    collateral = pki.collateral()
    changed = replace(collateral, tcb_info=collateral.tcb_info.replace(b'"OutOfDate"', b'"UpToDate"', 1))
    with pytest.raises(ValueError):
        verdict(pki, quote, collateral=changed)


def test_dcap_qvl_does_not_trust_it_without_being_given_the_root(pki: Pki, enclave: QuotingEnclave) -> None:
    quote = enclave.quote(make_report(pki).to_bytes())
    bundle = dcap_qvl.QuoteCollateralV3.from_json(pki.collateral().to_dcap_qvl_json().decode())
    with pytest.raises(ValueError):
        dcap_qvl.verify(quote, bundle, int(NOW.timestamp()))
