"""Verification of a quote, against dcap-qvl, a native verifier, on the same quote and collateral."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tdxstack.abi.quote import Quote
from tdxstack.collateral.bundle import Collateral
from tdxstack.verification.inputs import ParsedCollateral
from tdxstack.verification.quote import verify_quote

dcap_qvl = pytest.importorskip("dcap_qvl")

SAMPLE = Path(__file__).resolve().parents[3] / "shared/vectors/Phala-Network+dcap-qvl/sample"
TIME = datetime(2025, 6, 20, tzinfo=UTC)
GROUP = "verify a TD quote, collateral parsed"

pytestmark = pytest.mark.skipif(not SAMPLE.is_dir(), reason="the public vectors are not beside the checkout")


@pytest.mark.benchmark(group=GROUP)
def test_tdxstack(benchmark: Any) -> None:
    quote = (SAMPLE / "tdx_quote").read_bytes()
    collateral = ParsedCollateral.parse(
        Collateral.from_json((SAMPLE / "tdx_quote_collateral.json").read_bytes())
    )
    benchmark(lambda: verify_quote(Quote.parse(quote), collateral, time=TIME))


@pytest.mark.benchmark(group=GROUP)
def test_peer_dcap_qvl(benchmark: Any) -> None:
    quote = (SAMPLE / "tdx_quote").read_bytes()
    collateral = dcap_qvl.QuoteCollateralV3.from_json((SAMPLE / "tdx_quote_collateral.json").read_text())
    benchmark(lambda: dcap_qvl.verify(quote, collateral, int(TIME.timestamp())))
