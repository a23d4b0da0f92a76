from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdxstack.collateral.bundle import Collateral, crl_der
from tdxstack.errors import MalformedError
from tests.recorded_boot import pki_in

dcap_qvl = pytest.importorskip("dcap_qvl")

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
WRONG: tuple[object, ...] = (None, 1, [], "\ud800")


@pytest.fixture(scope="module")
def collateral(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collateral]:
    yield pki_in(tmp_path_factory.mktemp("emulated"), NOW).collateral()


def test_our_form_comes_back_unchanged(collateral: Collateral) -> None:
    assert Collateral.from_json(collateral.to_json()) == collateral
    assert b"BEGIN X509 CRL" in collateral.to_json()


def test_dcap_qvl_form_comes_back_unchanged(collateral: Collateral) -> None:
    assert Collateral.from_json(collateral.to_dcap_qvl_json()) == collateral


def test_dcap_qvl_reads_what_we_write(collateral: Collateral) -> None:
    read = dcap_qvl.QuoteCollateralV3.from_json(collateral.to_dcap_qvl_json().decode())
    assert read.root_ca_crl == collateral.root_ca_crl
    assert read.pck_crl_issuer_chain.encode() == collateral.pck_crl_issuer_chain
    assert Collateral.from_json(read.to_json().encode()) == collateral


def test_a_crl_may_be_der_hex_or_pem(collateral: Collateral) -> None:
    der = collateral.pck_crl
    pem = json.loads(collateral.to_json())["pck_crl"].encode()
    for form in (der, der.hex().encode(), der.hex().upper().encode() + b"\0", pem, b"text\n" + pem + b"\0"):
        assert crl_der(form) == der


@pytest.mark.parametrize(
    "text", [b"30" * 8 + b"3", b"-----BEGIN X509 CRL-----\n!!!\n-----END X509 CRL-----\n"]
)
def test_broken_crl_text_is_malformed(text: bytes) -> None:
    with pytest.raises(MalformedError):
        crl_der(text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"x",
        b"[]",
        b"1",
        b"{}",
        b'{"format":"other"}',
        b'{"format":"tdxstack collateral 1"}',
        b"[" * 100_000,
    ],
)
def test_other_json_is_malformed(text: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        Collateral.from_json(text)
    assert caught.value.hint


@pytest.mark.parametrize("form", ["tdxstack", "dcap-qvl"])
def test_every_item_is_required_as_a_string(collateral: Collateral, form: str) -> None:
    text = collateral.to_json() if form == "tdxstack" else collateral.to_dcap_qvl_json()
    document = json.loads(text)
    for key in document:
        for value in WRONG:
            with pytest.raises(MalformedError):
                Collateral.from_json(json.dumps({**document, key: value}).encode())


def test_collateral_that_is_no_text_cannot_be_written(collateral: Collateral) -> None:
    with pytest.raises(MalformedError, match="tcb_info is not text"):
        replace(collateral, tcb_info=b"\xff").to_json()


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_input_gives_collateral_or_malformed(data: bytes) -> None:
    try:
        Collateral.from_json(data)
    except MalformedError as error:
        assert error.hint
