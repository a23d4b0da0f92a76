"""Verification of a quote, against dcap-qvl, a native verifier, and against the signatures that it takes.

The groups compare in one run: a verifier that has seen collateral and PCK chain, at one time and at
another one each time, with two verifications of a P-256 signature; one that has seen nothing with dcap-qvl.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tdxstack.abi.quote import Quote
from tdxstack.collateral.bundle import Collateral
from tdxstack.verification.certificates import INTEL_SGX_ROOT_CA, TrustAnchor
from tdxstack.verification.policy import Policy
from tdxstack.verification.quote import Verifier
from tdxstack.verification.signatures import PublicKey, der_signature
from tests.conformance import vectors
from tests.recorded_boot import ALLOW_EMULATED, NOW, pki_in, synthetic_boot

dcap_qvl = pytest.importorskip("dcap_qvl")

SAMPLE = "Phala-Network+dcap-qvl/sample/"
WARM = "verify a TD quote: collateral and PCK chain are known"
COLD = "verify a TD quote: nothing is known"


@dataclass(frozen=True)
class Case:
    """A quote and all that both verifiers need."""

    quote: bytes
    collateral: Collateral
    time: datetime
    anchor: TrustAnchor
    policy: Policy
    peer: Callable[[], object]

    def verifier(self) -> Verifier:
        return Verifier(anchors=(self.anchor,), policy=self.policy)

    def verify(self, verifier: Verifier, time: datetime) -> None:
        assert verifier.verify(Quote.parse(self.quote), self.collateral, time=time).accepted


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A public quote of a real TD where there is one, else one of an emulated TD."""
    if not vectors.present():
        pki = pki_in(tmp_path_factory.mktemp("emulated"), NOW)
        boot = synthetic_boot(pki, NOW)
        peer_collateral = dcap_qvl.QuoteCollateralV3.from_json(boot.collateral.to_dcap_qvl_json().decode())
        quote, seconds, root = (
            boot.evidence.quote,
            int(NOW.timestamp()),
            pki.trust_anchor.public_bytes(Encoding.DER),
        )
        return Case(
            quote,
            boot.collateral,
            NOW,
            boot.anchors[0],
            ALLOW_EMULATED,
            lambda: dcap_qvl.verify_with_root_ca(quote, peer_collateral, root, seconds),
        )
    time = datetime(2025, 6, 20, tzinfo=UTC)
    sample, document = vectors.read(SAMPLE + "tdx_quote"), vectors.read(SAMPLE + "tdx_quote_collateral.json")
    sample_collateral = dcap_qvl.QuoteCollateralV3.from_json(document.decode())
    return Case(
        sample,
        Collateral.from_json(document),
        time,
        INTEL_SGX_ROOT_CA,
        Policy(),
        lambda: dcap_qvl.verify(sample, sample_collateral, int(time.timestamp())),
    )


@pytest.mark.benchmark(group=WARM)
def test_limit_two_p256_verifications(benchmark: Any, case: Case) -> None:
    quote = Quote.parse(case.quote)
    key = PublicKey.of_point(quote.signature.attestation_key, "attestation key")
    signature, data = der_signature(quote.signature.signature), quote.signed_bytes
    benchmark(lambda: key.signed(signature, data) and key.signed(signature, data))


@pytest.mark.benchmark(group=WARM)
def test_warm(benchmark: Any, case: Case) -> None:
    verifier = case.verifier()
    benchmark(lambda: case.verify(verifier, case.time))


@pytest.mark.benchmark(group=WARM)
def test_warm_at_another_time(benchmark: Any, case: Case) -> None:
    verifier, later = case.verifier(), count()
    benchmark(lambda: case.verify(verifier, case.time + timedelta(milliseconds=next(later))))


@pytest.mark.benchmark(group=WARM)
def test_peer_dcap_qvl_which_remembers_nothing(benchmark: Any, case: Case) -> None:
    benchmark(case.peer)


@pytest.mark.benchmark(group=COLD)
def test_cold(benchmark: Any, case: Case) -> None:
    benchmark(lambda: case.verify(case.verifier(), case.time))


@pytest.mark.benchmark(group=COLD)
def test_peer_dcap_qvl(benchmark: Any, case: Case) -> None:
    benchmark(case.peer)
