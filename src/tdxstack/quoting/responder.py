"""What the quote generation service answers to one message. No sockets here.

Source: Intel DCAP, `qgs_ql_logic.cpp`. Where qgsd calls every failure "unexpected", this names the error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tdxstack.abi.qgs import (
    HEADER_SIZE,
    MAJOR_VERSION,
    PADDING_SIZE,
    ErrorCode,
    GetCollateralRequest,
    GetCollateralResponse,
    GetPlatformInfoRequest,
    GetPlatformInfoResponse,
    GetQuoteRequest,
    GetQuoteResponse,
    Header,
    MessageType,
)
from tdxstack.collateral.bundle import Collateral
from tdxstack.errors import MalformedError, TdxError
from tdxstack.quoting.enclave import QuotingEnclave, ReportRefusedError

_PADDING = bytes(PADDING_SIZE)
_PCK_CA = b"platform"
_DER_CRLS: Final = (3, 1)
"""Collateral version of the PCS formats with CRLs in DER."""


class Responder:
    """Answers with the quoting enclave's quotes and the platform's collateral. Threads may share it.

    `collateral` gives the collateral valid now; `log` receives a line for each refusal.
    """

    def __init__(
        self, enclave: QuotingEnclave, collateral: Callable[[], Collateral], log: Callable[[str], None]
    ) -> None:
        self._enclave = enclave
        self._collateral = collateral
        self._log = log

    def answer(self, message: bytes) -> bytes:
        """The response to one whole message, which may be anything; an error response if it is no good."""
        if len(message) < HEADER_SIZE:
            return self._refusal(Header(0, 0), ErrorCode.INVALID_SIZE, f"a message of {len(message)} bytes")
        header = Header.parse(message)
        try:
            if header.major_version != MAJOR_VERSION:
                return self._refusal(header, ErrorCode.INVALID_VERSION, f"version {header.major_version}")
            if header.type == MessageType.GET_QUOTE_REQUEST:
                return self._quote(GetQuoteRequest.parse(message))
            if header.type == MessageType.GET_COLLATERAL_REQUEST:
                return self._collateral_response(GetCollateralRequest.parse(message))
            if header.type == MessageType.GET_PLATFORM_INFO_REQUEST:
                return self._platform_info(GetPlatformInfoRequest.parse(message))
            return self._refusal(header, ErrorCode.INVALID_TYPE, f"message type {header.type}")
        except MalformedError as error:
            return self._refusal(header, ErrorCode.INVALID_SIZE, error.message)
        except ReportRefusedError as error:
            return self._refusal(header, error.code, error.message)
        except TdxError as error:
            return self._refusal(header, ErrorCode.UNEXPECTED, error.message)

    def answer_raw(self, report: bytes) -> bytes:
        """The bare quote for a bare TDREPORT; nothing if it is refused, for this form has no errors."""
        try:
            return self._enclave.quote(report)
        except ReportRefusedError as error:
            self._log(f"refused a raw TDREPORT: {error.message}")
            return b""

    def refuse_size(self, header: Header) -> bytes:
        """The answer to a message that is too large to be read."""
        return self._refusal(header, ErrorCode.INVALID_SIZE, f"{header.size} bytes are too many")

    def _quote(self, request: GetQuoteRequest) -> bytes:
        return GetQuoteResponse(self._enclave.quote(request.report)).to_bytes()

    def _collateral_response(self, request: GetCollateralRequest) -> bytes:
        platform = self._enclave.pki.platform
        header = Header(MessageType.GET_COLLATERAL_REQUEST, 0)
        if request.fmspc != platform.fmspc:
            what = f"FMSPC {request.fmspc[:16].hex()} is not this platform's {platform.fmspc.hex()}"
            return self._refusal(header, ErrorCode.INVALID_PARAMETER, what)
        if request.pck_ca.rstrip(b"\0") != _PCK_CA:
            return self._refusal(
                header, ErrorCode.INVALID_PARAMETER, f"PCK CA {request.pck_ca[:16]!r} is not {_PCK_CA!r}"
            )
        collateral = self._collateral()
        major, minor = _DER_CRLS
        return GetCollateralResponse(
            pck_crl_issuer_chain=collateral.pck_crl_issuer_chain,
            root_ca_crl=collateral.root_ca_crl,
            pck_crl=collateral.pck_crl,
            tcb_info_issuer_chain=collateral.tcb_info_issuer_chain,
            tcb_info=collateral.tcb_info,
            qe_identity_issuer_chain=collateral.qe_identity_issuer_chain,
            qe_identity=collateral.qe_identity,
            collateral_major=major,
            collateral_minor=minor,
            padding=_PADDING if request.minor_version == 0 else b"",
        ).to_bytes()

    def _platform_info(self, _request: GetPlatformInfoRequest) -> bytes:
        platform = self._enclave.pki.platform
        return GetPlatformInfoResponse(
            qe_isvsvn=platform.qe_isv_svn,
            pce_isvsvn=platform.pcesvn,
            platform_id=self._enclave.qe_id,
            cpusvn=platform.cpusvn,
            padding=_PADDING,
        ).to_bytes()

    def _refusal(self, header: Header, code: ErrorCode, reason: str) -> bytes:
        self._log(f"refused with {code.name}: {reason}")
        if header.type == MessageType.GET_COLLATERAL_REQUEST:
            return GetCollateralResponse(error_code=code).to_bytes()
        if header.type == MessageType.GET_PLATFORM_INFO_REQUEST:
            return GetPlatformInfoResponse(error_code=code).to_bytes()
        return GetQuoteResponse(error_code=code).to_bytes()
