from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tdxstack.abi.quote import Quote
from tdxstack.collateral.platform_id import PlatformId
from tdxstack.errors import MalformedError
from tdxstack.verification.quoted_platform import platform_of_quote
from tests.recorded_boot import NOW, certified, pki_in, synthetic_boot


@pytest.fixture(scope="module")
def quote(tmp_path_factory: pytest.TempPathFactory) -> Quote:
    return synthetic_boot(pki_in(tmp_path_factory.mktemp("emulated"), NOW), NOW).quote


def test_platform_is_that_of_the_pck_certificate(quote: Quote, tmp_path: Path) -> None:
    platform = pki_in(tmp_path, NOW).platform
    assert platform_of_quote(quote) == PlatformId(platform.fmspc, "platform", "TDX")
    chain = quote.signature.certification.data
    assert platform_of_quote(certified(quote, 4, chain)) == platform_of_quote(quote)
    sgx = replace(quote, header=replace(quote.header, tee_type=0))
    assert platform_of_quote(sgx).tee == "SGX"


def test_pck_chain_from_the_caller(quote: Quote) -> None:
    without = certified(quote, 1, bytes(420))
    with pytest.raises(MalformedError, match="type 1 and no PCK certificate"):
        platform_of_quote(without)
    assert platform_of_quote(without, quote.signature.certification.data) == platform_of_quote(quote)


def test_other_certificates_are_malformed(quote: Quote) -> None:
    chain = quote.signature.certification.data
    issuers = b"-----BEGIN" + chain.split(b"-----BEGIN", 2)[2]
    for data in (b"", issuers, chain[:200]):
        with pytest.raises(MalformedError) as caught:
            platform_of_quote(certified(quote, 5, data))
        assert caught.value.hint
