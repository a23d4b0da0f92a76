"""From a TDREPORT to a verdict: the emulated enclave's quotes before tdxstack's own verifier."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tdxstack.abi.quote import Quote
from tdxstack.quoting.enclave import QuotingEnclave
from tdxstack.quoting.pki import Pki, open_pki
from tdxstack.quoting.platform import EmulatedPlatform
from tdxstack.verification.certificates import INTEL_SGX_ROOT_CA, TrustAnchor
from tdxstack.verification.inputs import ParsedCollateral
from tdxstack.verification.policy import Policy
from tdxstack.verification.quote import QuoteResult, verify_quote

from .conftest import NOW, make_report

ALLOWED = Policy(allow_emulated=True)


def anchor(pki: Pki) -> TrustAnchor:
    return TrustAnchor.from_certificate(pki.trust_anchor.public_bytes(Encoding.PEM))


def verify(pki: Pki, quote: bytes, *, policy: Policy = ALLOWED, days: int = 0) -> QuoteResult:
    collateral = ParsedCollateral.parse(pki.collateral())
    time = NOW + timedelta(days=days)
    return verify_quote(Quote.parse(quote), collateral, time=time, anchors=(anchor(pki),), policy=policy)


def failed(result: QuoteResult) -> set[str]:
    return {check.id for check in result.failures()}


@pytest.mark.parametrize("version", [4, 5])
def test_an_emulated_quote_is_accepted_where_allowed(pki: Pki, version: int) -> None:
    quote = QuotingEnclave(pki, quote_version=version).quote(make_report(pki).to_bytes())
    result = verify(pki, quote, policy=replace(ALLOWED, expected={"report_data": (b"N" * 64,)}))
    assert failed(result) == set()
    assert result.accepted and result.emulated
    assert result.tcb is not None and result.tcb.status.value == "UpToDate"


def test_it_is_rejected_where_not_allowed_and_only_for_that(pki: Pki, enclave: QuotingEnclave) -> None:
    result = verify(pki, enclave.quote(make_report(pki).to_bytes()), policy=Policy())
    assert not result.accepted and result.emulated
    assert failed(result) == {"emulated.allowed"}


def test_permission_without_the_root_is_not_enough(pki: Pki, enclave: QuotingEnclave) -> None:
    quote = Quote.parse(enclave.quote(make_report(pki).to_bytes()))
    collateral = ParsedCollateral.parse(pki.collateral())
    result = verify_quote(quote, collateral, time=NOW, anchors=(INTEL_SGX_ROOT_CA,), policy=ALLOWED)
    assert not result.accepted
    assert "pck.trust_anchor" in failed(result)


def test_another_emulated_platform_is_not_trusted(pki: Pki, enclave: QuotingEnclave, tmp_path: Path) -> None:
    other = open_pki(tmp_path / "other", NOW)
    quote = Quote.parse(enclave.quote(make_report(pki).to_bytes()))
    collateral = ParsedCollateral.parse(pki.collateral())
    result = verify_quote(quote, collateral, time=NOW, anchors=(anchor(other),), policy=ALLOWED)
    assert "pck.trust_anchor" in failed(result)


def test_a_debug_td_is_rejected(pki: Pki, enclave: QuotingEnclave) -> None:
    quote = enclave.quote(make_report(pki, attributes=1 << 28 | 1).to_bytes())
    assert failed(verify(pki, quote)) == {"td.debug"}


def test_a_td_that_outlived_a_module_update_is_judged_by_both_modules(
    pki: Pki, enclave: QuotingEnclave
) -> None:
    newer = bytes((pki.platform.tee_tcb_svn[0] + 1,)) + pki.platform.tee_tcb_svn[1:]
    result = verify(pki, enclave.quote(make_report(pki, tee_tcb_svn2=newer).to_bytes()))
    assert failed(result) == set()


def test_collateral_past_its_date_is_rejected_and_renewed_collateral_accepted(
    pki: Pki, enclave: QuotingEnclave, tmp_path: Path
) -> None:
    quote = enclave.quote(make_report(pki).to_bytes())
    assert {"crl.root", "crl.pck", "tcb_info.freshness", "qe_identity.freshness"} <= failed(
        verify(pki, quote, days=31)
    )
    shutil.copytree(pki.directory, tmp_path / "pki")
    renewed = open_pki(tmp_path / "pki", NOW + timedelta(days=31))
    assert verify(renewed, quote, days=31).accepted


def older_module(platform: EmulatedPlatform) -> EmulatedPlatform:
    svn = platform.tee_tcb_svn
    return replace(platform, tee_tcb_svn=bytes((svn[0] - 1,)) + svn[1:])


def older_microcode(platform: EmulatedPlatform) -> EmulatedPlatform:
    svn = platform.tee_tcb_svn
    return replace(platform, tee_tcb_svn=svn[:2] + bytes((svn[2] - 1,)) + svn[3:])


def older_enclave(platform: EmulatedPlatform) -> EmulatedPlatform:
    return replace(platform, qe_isv_svn=platform.qe_isv_svn - 1)


@pytest.mark.parametrize("older", [older_module, older_microcode, older_enclave])
def test_what_is_older_than_the_tcb_info_says_is_out_of_date(
    pki: Pki, older: Callable[[EmulatedPlatform], EmulatedPlatform]
) -> None:
    behind = replace(pki, platform=older(pki.platform))
    quote = QuotingEnclave(behind).quote(make_report(behind).to_bytes())
    result = verify(pki, quote)
    assert not result.accepted
    assert result.tcb is not None and result.tcb.status.value == "OutOfDate"
    assert result.tcb.advisories == ("TDXSTACK-EMULATED-0001",)


def test_another_enclave_than_the_identity_names_is_rejected(pki: Pki) -> None:
    strange = replace(pki, platform=replace(pki.platform, qe_mrsigner=b"x" * 32))
    quote = QuotingEnclave(strange).quote(make_report(pki).to_bytes())
    assert "qe.identity" in failed(verify(pki, quote))
