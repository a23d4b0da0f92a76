"""A client of the quote generation service, Intel's or ours. Blocking, with a time limit on everything."""

from __future__ import annotations

from typing import Final

from tdxstack.abi.qgs import (
    MAX_RESPONSE_SIZE,
    ErrorCode,
    GetCollateralRequest,
    GetCollateralResponse,
    GetPlatformInfoRequest,
    GetPlatformInfoResponse,
    GetQuoteRequest,
    GetQuoteResponse,
    error_name,
)
from tdxstack.collateral.bundle import Collateral, crl_der
from tdxstack.errors import MalformedError, RejectedError, UnavailableError
from tdxstack.exchange import Address, address_name, exchange

TIMEOUT_SECONDS: Final = 30.0

_PCK_CA = b"platform\0"


def get_quote(address: Address, report: bytes, *, timeout: float = TIMEOUT_SECONDS) -> bytes:
    """The quote for a TDREPORT of 1024 bytes.

    Raises `RejectedError` where the service refuses, `UnavailableError` where it does not answer within
    `timeout` seconds, `MalformedError` where its answer makes no sense. So do the other calls.
    """
    response = GetQuoteResponse.parse(_exchange(address, GetQuoteRequest(report).to_bytes(), timeout))
    _accept(response.error_code, "a quote")
    return response.quote


def get_collateral(address: Address, fmspc: bytes, *, timeout: float = TIMEOUT_SECONDS) -> Collateral:
    """The collateral for quotes of the platform with this FMSPC (6 bytes)."""
    request = GetCollateralRequest(fmspc, _PCK_CA)
    response = GetCollateralResponse.parse(_exchange(address, request.to_bytes(), timeout))
    _accept(response.error_code, "collateral")
    return Collateral(
        pck_crl_issuer_chain=response.pck_crl_issuer_chain.rstrip(b"\0"),
        root_ca_crl=crl_der(response.root_ca_crl),
        pck_crl=crl_der(response.pck_crl),
        tcb_info_issuer_chain=response.tcb_info_issuer_chain.rstrip(b"\0"),
        tcb_info=response.tcb_info.rstrip(b"\0"),
        qe_identity_issuer_chain=response.qe_identity_issuer_chain.rstrip(b"\0"),
        qe_identity=response.qe_identity.rstrip(b"\0"),
    )


def get_platform_info(address: Address, *, timeout: float = TIMEOUT_SECONDS) -> GetPlatformInfoResponse:
    """Versions of the quoting enclave and the PCE, the QE ID, and CPUSVN."""
    message = _exchange(address, GetPlatformInfoRequest().to_bytes(), timeout)
    response = GetPlatformInfoResponse.parse(message)
    _accept(response.error_code, "platform information")
    return response


def _accept(error_code: int, what: str) -> None:
    if error_code != ErrorCode.SUCCESS:
        raise RejectedError(
            f"the quote generation service refuses {what}: {error_name(error_code)}",
            hint="its log says why",
        )


def _exchange(address: Address, message: bytes, timeout: float) -> bytes:
    """Send one framed message and read the framed answer."""
    try:
        return exchange(address, message, limit=MAX_RESPONSE_SIZE, timeout=timeout)
    except EOFError as error:
        raise MalformedError(
            f"the quote generation service {error}",
            hint=f"is it one that listens on {address_name(address)}? Its log may say more",
        ) from None
    except TimeoutError:
        raise UnavailableError(
            f"the quote generation service on {address_name(address)} did not answer within {timeout:g} s",
            hint="see its log, and restart it if it hangs",
        ) from None
    except OSError as error:
        raise UnavailableError(
            f"no quote generation service on {address_name(address)}: {error.strerror or error}",
            hint="start it: tdx serve qgs, or Intel's qgsd on TDX hardware",
        ) from None
