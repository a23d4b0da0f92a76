"""Which key of a database lets an EFI program start: what firmware and shim log as the authority.

The chain of certificates and the digest that is signed are checked; the signature itself is not, as the
question is what a sound image will be verified by.

Source: edk2 SecurityPkg/Library/DxeImageVerificationLib.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509 import Certificate, load_der_x509_certificate

from tdxstack.errors import MalformedError
from tdxstack.measurement.pe import Image
from tdxstack.measurement.signature_list import (
    HEADER_SIZE,
    OWNER_SIZE,
    X509,
    SignatureList,
    parse_signature_lists,
)

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
    for signature in image.signatures():
        chain = _chain(signature) if digest in signature else []
        for entry, certificate in trusted:
            if any(_reaches(link, certificate) for link in chain):
                return entry
    return next((entry for entry in _entries(allowing, SHA256_HASH) if entry.data == digest), None)


def signers(image: Image) -> list[bytes]:
    """The certificate (DER) of who made each signature of a program, in order, whether it is valid or not.

    Raises `MalformedError` for broken signatures.
    """
    chains = [_chain(signature) for signature in image.signatures()]
    return [chain[0].public_bytes(Encoding.DER) for chain in chains if chain]


def _entries(lists: Sequence[SignatureList], kind: UUID) -> list[Entry]:
    """The entries of one kind, in order."""
    return [Entry(owner, data) for one in lists if one.type == kind for owner, data in one.signatures]


def _certificate(der: bytes) -> Certificate | None:
    """A certificate of a database; None for what is none, which firmware passes over."""
    try:
        return load_der_x509_certificate(der)
    except ValueError:
        return None


def _chain(signature: bytes) -> list[Certificate]:
    """The signer's certificate and those above it, as far as the signature brings them."""
    # Signers pad signatures to 8 bytes.
    length = 4 + int.from_bytes(signature[2:4], "big") if signature[1:2] == b"\x82" else len(signature)
    try:
        brought = pkcs7.load_der_pkcs7_certificates(signature[:length])
    except ValueError:
        raise MalformedError("PE image: its signature is broken", hint="sign it again") from None
    issuers = {certificate.issuer for certificate in brought if certificate.issuer != certificate.subject}
    leaf = next((one for one in brought if one.subject not in issuers), None)
    chain: list[Certificate] = []
    while leaf is not None and leaf not in chain:
        chain.append(leaf)
        leaf = _issuer(leaf, brought)
    return chain


def _issuer(certificate: Certificate, among: Sequence[Certificate]) -> Certificate | None:
    return next((one for one in among if _reaches(certificate, one)), None)


def _reaches(certificate: Certificate, trusted: Certificate) -> bool:
    """Whether a certificate is `trusted` itself or issued by it."""
    if certificate == trusted:
        return True
    try:
        certificate.verify_directly_issued_by(trusted)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
