"""Answers of the quote generation service, message by message."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.abi.qgs import (
    ErrorCode,
    GetCollateralRequest,
    GetCollateralResponse,
    GetPlatformInfoRequest,
    GetPlatformInfoResponse,
    GetQuoteRequest,
    GetQuoteResponse,
    Header,
)
from tdxstack.abi.quote import Quote
from tdxstack.collateral.bundle import Collateral
from tdxstack.errors import UnavailableError
from tdxstack.quoting.enclave import QuotingEnclave
from tdxstack.quoting.pki import Pki
from tdxstack.quoting.responder import Responder

from .conftest import make_report


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def responder(pki: Pki, enclave: QuotingEnclave, log: list[str]) -> Responder:
    return Responder(enclave, pki.collateral, log.append)


def test_get_quote_gives_a_quote(pki: Pki, responder: Responder, log: list[str]) -> None:
    request = GetQuoteRequest(make_report(pki).to_bytes(), b"an id list is not looked at")
    response = GetQuoteResponse.parse(responder.answer(request.to_bytes()))
    assert response.error_code == ErrorCode.SUCCESS
    assert Quote.parse(response.quote).header.version == 4
    assert log == []


def test_get_platform_info_tells_versions(pki: Pki, enclave: QuotingEnclave, responder: Responder) -> None:
    data = responder.answer(GetPlatformInfoRequest().to_bytes())
    assert len(data) == 16 + 12 + 16 + 16 + 4, "with the four bytes that qgs_msg_lib counts twice"
    response = GetPlatformInfoResponse.parse(data)
    assert (response.qe_isvsvn, response.pce_isvsvn) == (pki.platform.qe_isv_svn, pki.platform.pcesvn)
    assert (response.platform_id, response.cpusvn) == (enclave.qe_id, pki.platform.cpusvn)


@pytest.mark.parametrize("ca", [b"platform", b"platform\0"])
def test_get_collateral_gives_the_seven_parts(pki: Pki, responder: Responder, ca: bytes) -> None:
    request = GetCollateralRequest(pki.platform.fmspc, ca)
    response = GetCollateralResponse.parse(responder.answer(request.to_bytes()))
    collateral = pki.collateral()
    assert response.parts == (
        collateral.pck_crl_issuer_chain,
        collateral.root_ca_crl,
        collateral.pck_crl,
        collateral.tcb_info_issuer_chain,
        collateral.tcb_info,
        collateral.qe_identity_issuer_chain,
        collateral.qe_identity,
    )
    assert (response.collateral_major, response.collateral_minor) == (3, 1)


def test_an_old_client_gets_the_padding_that_it_counts_on(pki: Pki, responder: Responder) -> None:
    request = GetCollateralRequest(pki.platform.fmspc, b"platform")
    new = responder.answer(request.to_bytes())
    old = responder.answer(replace(request, minor_version=0).to_bytes())
    assert len(old) == len(new) + 4


@pytest.mark.parametrize(
    ("fmspc", "ca"), [(b"\0" * 6, b"platform"), (None, b"processor"), (None, b"\xff" * 3000)]
)
def test_collateral_of_others_is_refused(
    pki: Pki, responder: Responder, fmspc: bytes | None, ca: bytes
) -> None:
    request = GetCollateralRequest(fmspc or pki.platform.fmspc, ca)
    response = GetCollateralResponse.parse(responder.answer(request.to_bytes()))
    assert response.error_code == ErrorCode.INVALID_PARAMETER


@pytest.mark.parametrize(
    ("report", "code"),
    [
        (b"x", ErrorCode.INVALID_SIZE),
        (bytes(1024), ErrorCode.INVALID_TYPE),
        (b"\x81\0\5\0" + bytes(1020), ErrorCode.INVALID_VERSION),
        (b"\x81" + bytes(1023), ErrorCode.INVALID_PARAMETER),
    ],
)
def test_a_refused_report_gives_the_code_and_a_line_in_the_log(
    responder: Responder, log: list[str], report: bytes, code: ErrorCode
) -> None:
    response = GetQuoteResponse.parse(responder.answer(GetQuoteRequest(report).to_bytes()))
    assert (response.error_code, response.quote) == (code, b"")
    assert len(log) == 1 and code.name in log[0]


@pytest.mark.parametrize(
    ("header", "code", "kind"),
    [
        (Header(0, 16, 0, 2), ErrorCode.INVALID_VERSION, GetQuoteResponse),
        (Header(2, 16, 0, 2), ErrorCode.INVALID_VERSION, GetCollateralResponse),
        (Header(4, 16, 0, 0), ErrorCode.INVALID_VERSION, GetPlatformInfoResponse),
        (Header(4, 17), ErrorCode.INVALID_SIZE, GetPlatformInfoResponse),
        (Header(4, 16, 1), ErrorCode.INVALID_SIZE, GetPlatformInfoResponse),
        (Header(0, 16), ErrorCode.INVALID_SIZE, GetQuoteResponse),
        (Header(2, 16), ErrorCode.INVALID_SIZE, GetCollateralResponse),
        (Header(1, 16), ErrorCode.INVALID_TYPE, GetQuoteResponse),
        (Header(6, 16), ErrorCode.INVALID_TYPE, GetQuoteResponse),
        (Header(0xFFFFFFFF, 16), ErrorCode.INVALID_TYPE, GetQuoteResponse),
    ],
)
def test_a_bad_message_gives_an_error_of_its_own_type(
    responder: Responder,
    header: Header,
    code: ErrorCode,
    kind: type[GetQuoteResponse | GetCollateralResponse | GetPlatformInfoResponse],
) -> None:
    assert kind.parse(responder.answer(header.to_bytes())).error_code == code


def test_collateral_that_cannot_be_had_is_an_error_for_the_client_only(
    pki: Pki, enclave: QuotingEnclave
) -> None:
    def fail() -> Collateral:
        raise UnavailableError("the disk is gone", hint="find it")

    log: list[str] = []
    responder = Responder(enclave, fail, log.append)
    request = GetCollateralRequest(pki.platform.fmspc, b"platform")
    response = GetCollateralResponse.parse(responder.answer(request.to_bytes()))
    assert response.error_code == ErrorCode.UNEXPECTED
    assert "the disk is gone" in log[0]


def test_a_raw_report_gives_a_bare_quote_and_a_refused_one_nothing(
    pki: Pki, responder: Responder, log: list[str]
) -> None:
    report = make_report(pki).to_bytes()
    assert Quote.parse(responder.answer_raw(report)).trailing == b""
    assert responder.answer_raw(report[:-1] + b"\1") == b""
    assert len(log) == 1


@given(st.binary(max_size=64), st.integers(0, 7))
def test_any_bytes_get_an_answer(enclave: QuotingEnclave, data: bytes, kind: int) -> None:
    responder = Responder(enclave, enclave.pki.collateral, lambda _line: None)
    for message in (data, b"\1\0\1\0" + bytes((kind,)) + data):
        answer = responder.answer(message)
        assert Header.parse(answer).size == len(answer)
