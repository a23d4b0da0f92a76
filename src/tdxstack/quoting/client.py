"""A client of the quote generation service, Intel's or ours. Blocking, with a time limit on everything."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import Final

from tdxstack.abi.qgs import (
    LENGTH_PREFIX_SIZE,
    MAX_RESPONSE_SIZE,
    ErrorCode,
    GetCollateralRequest,
    GetCollateralResponse,
    GetPlatformInfoRequest,
    GetPlatformInfoResponse,
    GetQuoteRequest,
    GetQuoteResponse,
    error_name,
    frame,
)
from tdxstack.collateral.bundle import Collateral, crl_der
from tdxstack.errors import MalformedError, RejectedError, UnavailableError

Address = Path | tuple[int, int]
"""A unix socket, or vsock's context id and port."""

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
    deadline = time.monotonic() + timeout
    try:
        with contextlib.closing(_socket(address)) as peer:
            _limit(peer, deadline)
            peer.connect(os.fspath(address) if isinstance(address, Path) else address)
            # In one piece: qgsd mistakes a request that arrives in two.
            peer.sendall(frame(message))
            size = int.from_bytes(_receive(peer, LENGTH_PREFIX_SIZE, deadline), "big")
            if size > MAX_RESPONSE_SIZE:
                raise MalformedError(
                    f"the quote generation service announces {size} bytes, more than {MAX_RESPONSE_SIZE}",
                    hint=f"is it a quote generation service that listens on {_name(address)}?",
                )
            return _receive(peer, size, deadline)
    except TimeoutError:
        raise UnavailableError(
            f"the quote generation service on {_name(address)} did not answer within {timeout:g} s",
            hint="see its log, and restart it if it hangs",
        ) from None
    except OSError as error:
        raise UnavailableError(
            f"no quote generation service on {_name(address)}: {error.strerror or error}",
            hint="start it: tdx serve qgs, or Intel's qgsd on TDX hardware",
        ) from None


def _receive(peer: socket.socket, size: int, deadline: float) -> bytes:
    parts: list[bytes] = []
    missing = size
    while missing:
        _limit(peer, deadline)
        part = peer.recv(min(missing, 1 << 16))
        if not part:
            raise MalformedError(
                f"the quote generation service closed the connection {missing} bytes before the end",
                hint="it does so with requests that it does not understand; its log may say why",
            )
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _limit(peer: socket.socket, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    peer.settimeout(left)


def _socket(address: Address) -> socket.socket:
    family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_VSOCK
    return socket.socket(family, socket.SOCK_STREAM)


def _name(address: Address) -> str:
    return str(address) if isinstance(address, Path) else f"vsock {address[0]}:{address[1]}"
