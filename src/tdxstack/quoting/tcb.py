"""The two signed JSON documents that say how good a platform is: TCB info and QE identity.

Source: Intel PCS API version 4, "Get TDX TCB Info" (TCB info version 3) and "Get TD QE Identity" (version 2).
A document is signed with ECDSA-P256 over the exact bytes of its inner object; the signature is r, s in hex.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tdxstack.collateral.signed_json import SignedJson
from tdxstack.errors import MalformedError
from tdxstack.quoting.authority import Key, raw_signature
from tdxstack.quoting.platform import EmulatedPlatform

TCB_EVALUATION_DATA_NUMBER: Final = 20
"""Of the TCB recovery that was Intel's standard one when the emulated platform's levels were written."""

_TCB_DATE: Final = "2025-01-01T00:00:00Z"
_OLD_TCB_DATE: Final = "2024-01-01T00:00:00Z"
_OLD_ADVISORY: Final = "TDXSTACK-EMULATED-0001"
_NO_MASK_48: Final = "00" * 48
_ALL_BITS_8: Final = "FF" * 8
_HINT = "restore the file from a copy"


def tcb_info(platform: EmulatedPlatform, issued: datetime, valid_for: timedelta) -> bytes:
    """The inner TCB info object, compact. The platform as it is counts as UpToDate, an older as OutOfDate."""
    module = {"mrsigner": _NO_MASK_48, "attributes": "00" * 8, "attributesMask": _ALL_BITS_8}
    isv_svn = platform.tee_tcb_svn[0]
    return _compact(
        {
            "id": "TDX",
            "version": 3,
            "issueDate": _time(issued),
            "nextUpdate": _time(issued + valid_for),
            "fmspc": platform.fmspc.hex().upper(),
            "pceId": platform.pce_id.hex().upper(),
            "tcbType": 0,
            "tcbEvaluationDataNumber": TCB_EVALUATION_DATA_NUMBER,
            "tdxModule": module,
            "tdxModuleIdentities": [
                {"id": name, **module, "tcbLevels": _isv_levels(isv_svn)} for name in ("TDX_03", "TDX_01")
            ],
            "tcbLevels": _tcb_levels(platform),
        }
    )


def qe_identity(platform: EmulatedPlatform, issued: datetime, valid_for: timedelta) -> bytes:
    """The inner TD QE identity object, compact. It fits the report of the emulated quoting enclave."""
    attributes = platform.qe_flags.to_bytes(8, "little") + bytes(8)
    return _compact(
        {
            "id": "TD_QE",
            "version": 2,
            "issueDate": _time(issued),
            "nextUpdate": _time(issued + valid_for),
            "tcbEvaluationDataNumber": TCB_EVALUATION_DATA_NUMBER,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": attributes.hex().upper(),
            # Every flag but MODE64BIT must match, and no XFRM bit: as in Intel's identity.
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": platform.qe_mrsigner.hex().upper(),
            "isvprodid": platform.qe_isv_prod_id,
            "tcbLevels": _isv_levels(platform.qe_isv_svn),
        }
    )


def signed_document(name: str, inner: bytes, key: Key) -> bytes:
    """`{"name":inner,"signature":"hex"}` as the PCS sends it."""
    return SignedJson.of_parts(name, inner.decode(), raw_signature(key, inner).hex()).to_bytes()


def open_document(name: str, document: bytes, key: ec.EllipticCurvePublicKey) -> dict[str, Any]:
    """The inner object of what `signed_document` made. Raises `MalformedError` if anything was changed."""
    signed = SignedJson.parse(document, name)
    r, s = int.from_bytes(signed.signature[:32], "big"), int.from_bytes(signed.signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), signed.body, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise MalformedError(
            f"{name} does not carry the signature of its TCB signing key", hint=_HINT
        ) from None
    return signed.value


def _tcb_levels(platform: EmulatedPlatform) -> list[dict[str, Any]]:
    older = bytes(max(0, svn - 1) for svn in platform.cpusvn)
    older_tdx = bytes(max(0, svn - 1) for svn in platform.tee_tcb_svn)
    return [
        {
            "tcb": _tcb(platform.cpusvn, platform.pcesvn, platform.tee_tcb_svn),
            "tcbDate": _TCB_DATE,
            "tcbStatus": "UpToDate",
        },
        {
            "tcb": _tcb(older, max(0, platform.pcesvn - 1), older_tdx),
            "tcbDate": _OLD_TCB_DATE,
            "tcbStatus": "OutOfDate",
            "advisoryIDs": [_OLD_ADVISORY],
        },
    ]


def _tcb(cpusvn: bytes, pcesvn: int, tee_tcb_svn: bytes) -> dict[str, Any]:
    return {
        "sgxtcbcomponents": [{"svn": svn} for svn in cpusvn],
        "pcesvn": pcesvn,
        "tdxtcbcomponents": [{"svn": svn} for svn in tee_tcb_svn],
    }


def _isv_levels(isv_svn: int) -> list[dict[str, Any]]:
    return [
        {"tcb": {"isvsvn": isv_svn}, "tcbDate": _TCB_DATE, "tcbStatus": "UpToDate"},
        {
            "tcb": {"isvsvn": max(0, isv_svn - 1)},
            "tcbDate": _OLD_TCB_DATE,
            "tcbStatus": "OutOfDate",
            "advisoryIDs": [_OLD_ADVISORY],
        },
    ]


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _compact(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
