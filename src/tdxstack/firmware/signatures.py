"""Which key of a database lets an EFI program start: what firmware and shim log as the authority.

Source: edk2 SecurityPkg/Library/DxeImageVerificationLib.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate, load_der_x509_certificate

from tdxstack.firmware.authenticode import Signature, reaches
from tdxstack.measurement.pe import Image
from tdxstack.measurement.signature_list import (
    HEADER_SIZE,
    OWNER_SIZE,
    X509,
    SignatureList,
    parse_signature_lists,
)
from tdxstack.verification.certificates import UNREADABLE

SHA256_HASH = UUID("c1c41626-504c-4092-aca9-41f936934328")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a signature database (EFI_SIGNATURE_DATA): who added it, and a certificate or digest."""

    owner: UUID
    data: bytes

    def to_bytes(self) -> bytes:
        """The entry as it is logged: owner, then data."""
        return self.owner.bytes_le + self.data


def certificate_list(owner: UUID, certificate: bytes) -> bytes:
    """A signature list of one certificate, as shim makes of its own."""
    size = OWNER_SIZE + len(certificate)
    sizes = (HEADER_SIZE + size).to_bytes(4, "little") + bytes(4) + size.to_bytes(4, "little")
    return X509.bytes_le + sizes + owner.bytes_le + certificate


def authority(image: Image, database: bytes, revoked: bytes = b"") -> Entry | None:
    """The entry of `database` that lets `image` start; None where none does, or `revoked` forbids it.

    Raises `MalformedError` for broken databases or signatures.
    """
    digest = image.digest("sha256")
    allowing, forbidding = parse_signature_lists(database), parse_signature_lists(revoked)
    forbidden = {entry.data for entry in (*_entries(forbidding, X509), *_entries(forbidding, SHA256_HASH))}
    if digest in forbidden:
        return None
    trusted = [
        (entry, certificate)
        for entry in _entries(allowing, X509)
        if entry.data not in forbidden and (certificate := _certificate(entry.data)) is not None
    ]
    revoking = [one for entry in _entries(forbidding, X509) if (one := _certificate(entry.data)) is not None]
    sound = [one for one in map(Signature.parse, image.signatures()) if one.holds and digest in one.content]
    if any(reaches(link, revoked) for one in sound for link in one.chain for revoked in revoking):
        return None
    for signature in sound:
        for entry, certificate in trusted:
            if any(reaches(link, certificate) for link in signature.chain):
                return entry
    return next((entry for entry in _entries(allowing, SHA256_HASH) if entry.data == digest), None)


def signers(image: Image) -> list[bytes]:
    """The certificate (DER) of who made each signature of a program, in order, whether it is valid or not.

    Raises `MalformedError` for broken signatures.
    """
    chains = [Signature.parse(signature).chain for signature in image.signatures()]
    return [chain[0].public_bytes(Encoding.DER) for chain in chains if chain]


def _entries(lists: Sequence[SignatureList], kind: UUID) -> list[Entry]:
    """The entries of one kind, in order."""
    return [Entry(owner, data) for one in lists if one.type == kind for owner, data in one.signatures]


def _certificate(der: bytes) -> Certificate | None:
    """A certificate of a database; None for what is none, which firmware passes over."""
    try:
        return load_der_x509_certificate(der)
    except UNREADABLE:
        return None
