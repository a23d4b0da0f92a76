"""What the emulated platform claims to be: one source for QEMU's properties, PCK certificate and TCB info."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from typing import Any, Final

from tdxstack.errors import MalformedError
from tdxstack.verification.emulated import EMULATED_FMSPC, EMULATED_MRSEAM

_FORMAT: Final = "tdxstack emulated platform 1"
_SIZES: Final = {
    "fmspc": 6,
    "pce_id": 2,
    "cpusvn": 16,
    "tee_tcb_svn": 16,
    "mrseam": 48,
    "mrsignerseam": 48,
    "qe_mrenclave": 32,
    "qe_mrsigner": 32,
}
_HINT = "restore the file from a copy, or move its directory away to have a new platform made"


@dataclass(frozen=True, slots=True)
class EmulatedPlatform:
    """The identity of one emulated platform: security versions and measurements, in wire byte order.

    It is written down when the platform's PKI is made, so that a later tdxstack with other defaults still
    speaks for the platform that its certificates describe.
    """

    fmspc: bytes = EMULATED_FMSPC
    pce_id: bytes = bytes(2)
    pcesvn: int = 13
    cpusvn: bytes = bytes.fromhex("02020202030100050000000000000000")
    """Also the 16 SGX TCB components: on this platform they are one and the same."""

    tee_tcb_svn: bytes = bytes.fromhex("0b010500000000000000000000000000")
    """Byte 0: the TDX module's ISVSVN; byte 1: its major version (1 is TDX 1.5); byte 2: microcode."""

    mrseam: bytes = EMULATED_MRSEAM
    mrsignerseam: bytes = bytes(48)
    """Zero, as with every module that Intel has signed."""

    seam_attributes: int = 0
    qe_mrenclave: bytes = hashlib.sha256(b"tdxstack emulated quoting enclave").digest()
    qe_mrsigner: bytes = hashlib.sha256(b"tdxstack emulated enclave signer").digest()
    qe_isv_prod_id: int = 2
    """Of the TD quoting enclave in Intel's DCAP."""

    qe_isv_svn: int = 7
    qe_flags: int = 0x11
    """INIT and PROVISIONKEY."""

    qe_xfrm: int = 0xE7

    def to_json(self) -> bytes:
        """A JSON document with bytes in hex."""
        document: dict[str, object] = {"format": _FORMAT}
        for field in fields(self):
            value = getattr(self, field.name)
            document[field.name] = value.hex() if isinstance(value, bytes) else value
        return json.dumps(document, indent=2).encode() + b"\n"

    @classmethod
    def from_json(cls, text: bytes) -> EmulatedPlatform:
        """Read what `to_json` wrote. Raises `MalformedError`."""
        try:
            document = json.loads(text)
        except ValueError as error:
            raise MalformedError(f"platform description is not JSON: {error}", hint=_HINT) from None
        names = {field.name for field in fields(cls)}
        if (
            not isinstance(document, dict)
            or document.pop("format", None) != _FORMAT
            or set(document) != names
        ):
            raise MalformedError(f"platform description is not a {_FORMAT!r}", hint=_HINT)
        return cls(**{name: _value(name, value) for name, value in document.items()})


def _value(name: str, value: object) -> Any:
    size = _SIZES.get(name)
    if size is None:
        if isinstance(value, int) and 0 <= value < 1 << 64:
            return value
    elif isinstance(value, str):
        try:
            data = bytes.fromhex(value)
        except ValueError:
            data = b""
        if len(data) == size:
            return data
    raise MalformedError(f"platform description: {name} is {value!r}", hint=_HINT)
