"""Which platform collateral is for, as the collateral says itself. Nothing here is verified."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509

from tdxstack.collateral.bundle import TCB_INFO, Collateral
from tdxstack.collateral.signed_json import SignedJson
from tdxstack.errors import MalformedError, UsageError

TDX: Final = "TDX"
SGX: Final = "SGX"
TEES: Final = (TDX, SGX)

PLATFORM_CA: Final = "platform"
PROCESSOR_CA: Final = "processor"
CAS: Final = (PLATFORM_CA, PROCESSOR_CA)
"""Intel's two authorities for PCK certificates, by the names that its services use."""

FMSPC_SIZE: Final = 6
_HINT = "fetch the collateral again"


@dataclass(frozen=True, slots=True)
class PlatformId:
    """FMSPC (6 bytes), the authority of its PCK certificates (`platform` or `processor`), and `TDX` or `SGX`.

    The last tells which quotes the collateral is for. Raises `UsageError` for anything else.
    """

    fmspc: bytes
    ca: str
    tee: str = TDX

    def __post_init__(self) -> None:
        if len(self.fmspc) != FMSPC_SIZE:
            raise UsageError(
                f"FMSPC {self.fmspc.hex()!r} has {len(self.fmspc)} bytes, not 6",
                hint="give the 12 hexadecimal digits that the PCK certificate has",
            )
        if self.ca not in CAS or self.tee not in TEES:
            raise UsageError(
                f"there is no {self.tee} collateral of the CA {self.ca!r}",
                hint=f"CAs: {', '.join(CAS)}; TEEs: {', '.join(TEES)}",
            )

    def __str__(self) -> str:
        return f"{self.tee} FMSPC {self.fmspc.hex()}, {self.ca} CA"


@dataclass(frozen=True, slots=True)
class Subject:
    """A platform, and the number of the TCB recovery that its levels belong to."""

    platform: PlatformId
    evaluation_number: int

    def __str__(self) -> str:
        return f"{self.platform}, TCB evaluation {self.evaluation_number}"


def subject_of(collateral: Collateral) -> Subject:
    """What `collateral` is for, by its TCB info and the issuer of its PCK CRL. Raises `MalformedError`."""
    return subjects_of([collateral])[0]


def subjects_of(collaterals: Iterable[Collateral]) -> list[Subject]:
    """The same for many, which may share their CRLs: each is read once."""
    cas: dict[bytes, str] = {}
    subjects = []
    for collateral in collaterals:
        if collateral.pck_crl not in cas:
            cas[collateral.pck_crl] = ca_of_crl(collateral.pck_crl)
        subjects.append(_subject(collateral, cas[collateral.pck_crl]))
    return subjects


def _subject(collateral: Collateral, ca: str) -> Subject:
    value = SignedJson.parse(collateral.tcb_info, TCB_INFO).value
    number = value.get("tcbEvaluationDataNumber")
    if type(number) is not int:
        raise MalformedError(f"tcbInfo: tcbEvaluationDataNumber is {number!r}, not a number", hint=_HINT)
    tee = value.get("id")
    if tee not in TEES:
        raise MalformedError(f"tcbInfo: id is {tee!r}, not TDX or SGX", hint=_HINT)
    return Subject(PlatformId(_fmspc(value.get("fmspc")), ca, tee), number)


def issued_at(document: bytes, name: str) -> datetime:
    """When the signed document called `name` was issued, by its own word. Raises `MalformedError`."""
    text = SignedJson.parse(document, name).value.get("issueDate")
    try:
        time = datetime.fromisoformat(text if isinstance(text, str) else "")
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise MalformedError(f"{name}: issueDate is {text!r}, not a time in UTC", hint=_HINT)
    return time


def ca_of_crl(der: bytes) -> str:
    """Which authority's PCK CRL this is, by its issuer's name. Raises `MalformedError`."""
    try:
        issuer = x509.load_der_x509_crl(der).issuer.rfc4514_string()
    except (ValueError, TypeError) as error:
        raise MalformedError(f"PCK CRL: {error}", hint=_HINT) from error
    for ca in CAS:
        if f"pck {ca} ca" in issuer.lower():
            return ca
    raise MalformedError(f"PCK CRL: {issuer!r} is not the name of a PCK CA", hint=_HINT)


def _fmspc(text: object) -> bytes:
    try:
        fmspc = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        fmspc = b""
    if len(fmspc) != FMSPC_SIZE:
        raise MalformedError(f"tcbInfo: fmspc is {text!r}, not 6 bytes in hex", hint=_HINT)
    return fmspc
