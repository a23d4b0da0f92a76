"""Offline bundles of collateral: everything that verifying a quote needs besides the quote, in one file."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, Final

from tdxstack.collateral.signed_json import SignedJson
from tdxstack.errors import MalformedError

BUNDLE_FORMAT: Final = "tdxstack collateral 1"
SET_FORMAT: Final = "tdxstack collateral set 1"
"""Of files with one platform and with several."""

TCB_INFO: Final = "tcbInfo"
QE_IDENTITY: Final = "enclaveIdentity"

_HEX_DIGITS = b"0123456789abcdefABCDEF"
_PEM_BEGIN = b"-----BEGIN X509 CRL-----"
_PEM_END = b"-----END X509 CRL-----"
_HINT = "expected a tdxstack bundle or dcap-qvl's QuoteCollateralV3 JSON"


@dataclass(frozen=True, slots=True)
class Collateral:
    """What Intel's PCS says about a platform; the seven items of DCAP's `sgx_ql_qve_collateral_t`.

    Chains are PEM, leaf first; CRLs are DER; TCB info and QE identity are whole PCS documents as received
    (`{"tcbInfo":{...},"signature":"..."}`). Nothing in here is trusted or even parsed until verification.
    """

    pck_crl_issuer_chain: bytes
    root_ca_crl: bytes
    pck_crl: bytes
    tcb_info_issuer_chain: bytes
    tcb_info: bytes
    qe_identity_issuer_chain: bytes
    qe_identity: bytes

    @classmethod
    def from_json(cls, text: bytes) -> Collateral:
        """Read a bundle: tdxstack's own form or dcap-qvl's `QuoteCollateralV3`. Raises `MalformedError`."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"collateral is not JSON: {error}", hint=_HINT) from error
        if not isinstance(document, dict):
            raise MalformedError(f"collateral is a JSON {type(document).__name__}", hint=_HINT)
        return cls.from_document(document)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Collateral:
        """The same from parsed JSON. Raises `MalformedError`."""
        if "tcb_info_signature" in document:
            return _from_dcap_qvl(document)
        if document.get("format") != BUNDLE_FORMAT:
            raise MalformedError(f"collateral has the format {document.get('format')!r}", hint=_HINT)
        return cls(
            pck_crl_issuer_chain=_text(document, "pck_crl_issuer_chain"),
            root_ca_crl=crl_der(_text(document, "root_ca_crl")),
            pck_crl=crl_der(_text(document, "pck_crl")),
            tcb_info_issuer_chain=_text(document, "tcb_info_issuer_chain"),
            tcb_info=_text(document, "tcb_info"),
            qe_identity_issuer_chain=_text(document, "qe_identity_issuer_chain"),
            qe_identity=_text(document, "qe_identity"),
        )

    def to_json(self) -> bytes:
        """tdxstack's own form: a JSON object of strings, CRLs in PEM. Raises `MalformedError`."""
        return json.dumps(self.to_document(), indent=2).encode() + b"\n"

    def to_document(self) -> dict[str, str]:
        """The same before it is written as JSON. Raises `MalformedError`."""
        return {
            "format": BUNDLE_FORMAT,
            "pck_crl_issuer_chain": _decoded(self.pck_crl_issuer_chain, "pck_crl_issuer_chain"),
            "root_ca_crl": _crl_pem(self.root_ca_crl),
            "pck_crl": _crl_pem(self.pck_crl),
            "tcb_info_issuer_chain": _decoded(self.tcb_info_issuer_chain, "tcb_info_issuer_chain"),
            "tcb_info": _decoded(self.tcb_info, "tcb_info"),
            "qe_identity_issuer_chain": _decoded(self.qe_identity_issuer_chain, "qe_identity_issuer_chain"),
            "qe_identity": _decoded(self.qe_identity, "qe_identity"),
        }

    def to_dcap_qvl_json(self) -> bytes:
        """dcap-qvl's `QuoteCollateralV3`: signatures apart, CRLs in hex. Raises `MalformedError`."""
        tcb_info = SignedJson.parse(self.tcb_info, TCB_INFO)
        qe_identity = SignedJson.parse(self.qe_identity, QE_IDENTITY)
        document = {
            "pck_crl_issuer_chain": _decoded(self.pck_crl_issuer_chain, "pck_crl_issuer_chain"),
            "root_ca_crl": self.root_ca_crl.hex(),
            "pck_crl": self.pck_crl.hex(),
            "tcb_info_issuer_chain": _decoded(self.tcb_info_issuer_chain, "tcb_info_issuer_chain"),
            "tcb_info": tcb_info.body.decode(),
            "tcb_info_signature": tcb_info.signature.hex(),
            "qe_identity_issuer_chain": _decoded(self.qe_identity_issuer_chain, "qe_identity_issuer_chain"),
            "qe_identity": qe_identity.body.decode(),
            "qe_identity_signature": qe_identity.signature.hex(),
        }
        return json.dumps(document, indent=2).encode() + b"\n"


def crl_der(data: bytes) -> bytes:
    """A CRL as DER, from DER, hex of DER or PEM: PCS, PCCS and QGS use all three. Raises `MalformedError`."""
    try:
        if _PEM_BEGIN in data:
            body = data.split(_PEM_BEGIN, 1)[1].split(_PEM_END, 1)[0]
            return base64.b64decode(b"".join(body.split()), validate=True)
        # Hex of DER starts with the digits "30"; DER itself with the byte 0x30, which is the digit "0".
        if all(byte in _HEX_DIGITS for byte in data[:16]):
            return bytes.fromhex(data.rstrip(b"\0").decode("ascii"))
        return data
    except (ValueError, binascii.Error) as error:
        raise MalformedError(f"a CRL is broken hex or PEM: {error}", hint=_HINT) from error


def _crl_pem(der: bytes) -> str:
    body = base64.b64encode(der).decode()
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    return "\n".join([_PEM_BEGIN.decode(), *lines, _PEM_END.decode(), ""])


def _from_dcap_qvl(document: dict[str, Any]) -> Collateral:
    def signed(name: str, key: str) -> bytes:
        body, signature = _text(document, key), _text(document, f"{key}_signature")
        return SignedJson.of_parts(name, body.decode(), signature.decode()).to_bytes()

    return Collateral(
        pck_crl_issuer_chain=_text(document, "pck_crl_issuer_chain"),
        root_ca_crl=crl_der(_text(document, "root_ca_crl")),
        pck_crl=crl_der(_text(document, "pck_crl")),
        tcb_info_issuer_chain=_text(document, "tcb_info_issuer_chain"),
        tcb_info=signed(TCB_INFO, "tcb_info"),
        qe_identity_issuer_chain=_text(document, "qe_identity_issuer_chain"),
        qe_identity=signed(QE_IDENTITY, "qe_identity"),
    )


def _text(document: dict[str, Any], key: str) -> bytes:
    value = document.get(key)
    if not isinstance(value, str):
        raise MalformedError(f"collateral: {key} is {type(value).__name__}, not a string", hint=_HINT)
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise MalformedError(f"collateral: {key} is not text: {error}", hint=_HINT) from error


def _decoded(data: bytes, key: str) -> str:
    try:
        return data.rstrip(b"\0").decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"collateral: {key} is not text: {error}", hint=_HINT) from error
