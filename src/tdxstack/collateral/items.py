"""The items that collateral is fetched as: where each is, and whether an answer is what was asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography import x509

from tdxstack.collateral.bundle import QE_IDENTITY, TCB_INFO, crl_der
from tdxstack.collateral.platform_id import SGX, TDX, PlatformId, ca_of_crl
from tdxstack.collateral.service import Evaluation, Service
from tdxstack.collateral.signed_json import SignedJson
from tdxstack.errors import MalformedError

_QE_IDS: Final = {TDX: "TD_QE", SGX: "QE"}
_HINT = "check the source; a PCCS may be older than what it is asked for, or hold damaged data"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that a service is asked for.

    `chain_headers` are the names, in lower case, of the headers that may carry the issuer chain.
    `next_update` says until when an answer's body is current, and raises `MalformedError` for a body that is
    not what was asked for. That does not verify the body.
    """

    name: str
    url: str
    chain_headers: tuple[str, ...]
    next_update: Callable[[bytes], datetime]


def tcb_info(service: Service, platform: PlatformId, evaluation: Evaluation) -> Item:
    """TCB info of a platform."""

    def next_update(body: bytes) -> datetime:
        value = SignedJson.parse(body, TCB_INFO).value
        _require("id", value.get("id"), platform.tee)
        _require("FMSPC", str(value.get("fmspc")).lower(), platform.fmspc.hex())
        return _document_end(value, evaluation)

    # The second is what version 3 of the API called it, and what some caches still do.
    headers = ("tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain")
    return Item("TCB info", service.tcb_info(platform, evaluation), headers, next_update)


def qe_identity(service: Service, tee: str, evaluation: Evaluation) -> Item:
    """Identity of the quoting enclave."""

    def next_update(body: bytes) -> datetime:
        value = SignedJson.parse(body, QE_IDENTITY).value
        _require("id", value.get("id"), _QE_IDS[tee])
        return _document_end(value, evaluation)

    headers = ("sgx-enclave-identity-issuer-chain",)
    return Item("QE identity", service.qe_identity(tee, evaluation), headers, next_update)


def pck_crl(service: Service, ca: str) -> Item:
    """Revocation list of the PCK certificates that `ca` issues."""

    def next_update(body: bytes) -> datetime:
        der = crl_der(body)
        _require("CA", ca_of_crl(der), ca)
        return _crl_end(der)

    return Item("PCK CRL", service.pck_crl(ca), ("sgx-pck-crl-issuer-chain",), next_update)


def root_ca_crl(url: str) -> Item:
    """Revocation list of the root CA."""
    return Item("root CA CRL", url, (), lambda body: _crl_end(crl_der(body)))


def distribution_point(chain: bytes) -> str:
    """Where the root in a chain (PEM) says that its revocation list is. Raises `MalformedError`."""
    try:
        for certificate in x509.load_pem_x509_certificates(chain):
            if certificate.subject != certificate.issuer:
                continue
            points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
            for point in points:
                for name in point.full_name or ():
                    if isinstance(name, x509.UniformResourceIdentifier):
                        return name.value
    except (ValueError, TypeError, x509.ExtensionNotFound) as error:
        raise MalformedError(
            f"the root certificate names no CRL distribution point: {error}", hint=_HINT
        ) from error
    raise MalformedError("the chain has no root that names a CRL distribution point", hint=_HINT)


def _require(name: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise MalformedError(f"{name} is {found!r}, asked for was {wanted!r}", hint=_HINT)


def _document_end(value: dict[str, Any], evaluation: Evaluation) -> datetime:
    if isinstance(evaluation, int):
        _require("tcbEvaluationDataNumber", value.get("tcbEvaluationDataNumber"), evaluation)
    text = value.get("nextUpdate")
    try:
        end = datetime.fromisoformat(text if isinstance(text, str) else "")
    except ValueError:
        end = None
    if end is None or end.tzinfo is None:
        raise MalformedError(f"nextUpdate is {text!r}, not a time in UTC", hint=_HINT)
    return end


def _crl_end(der: bytes) -> datetime:
    try:
        end = x509.load_der_x509_crl(der).next_update_utc
    except (ValueError, TypeError) as error:
        raise MalformedError(f"no CRL: {error}", hint=_HINT) from error
    if end is None:
        raise MalformedError("the CRL names no next update", hint=_HINT)
    return end
