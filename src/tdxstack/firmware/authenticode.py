"""The signatures of EFI programs (PKCS #7 SignedData): what each signs, by whom, and whether it holds.

Sources: Microsoft, Windows Authenticode Portable Executable Signature Format; RFC 2315, section 9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509 import Certificate

from tdxstack.errors import MalformedError
from tdxstack.verification.certificates import UNREADABLE
from tdxstack.verification.der import OBJECT_IDENTIFIER, OCTET_STRING, elements, header, sequence

SIGNED_DATA = bytes.fromhex("2a864886f70d010702")
MESSAGE_DIGEST = bytes.fromhex("2a864886f70d010904")
ALGORITHMS: dict[bytes, hashes.HashAlgorithm] = {
    bytes.fromhex("608648016503040201"): hashes.SHA256(),
    bytes.fromhex("608648016503040202"): hashes.SHA384(),
    bytes.fromhex("608648016503040203"): hashes.SHA512(),
}
SET, TAGGED = 0x31, 0xA0
"""A set, and the first field that is optional or whose type depends on an identifier before it."""

MAX_CERTIFICATES = 32
"""That a signature may bring along; each may be held against each."""

WHAT = "signature of a program"


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature.

    `content` is what is signed, the program's digest in it. `chain` is the signer's certificate and those
    above it, as far as they are brought along. `holds`: the signer's key has signed the content.
    """

    content: bytes
    chain: Sequence[Certificate]
    holds: bool

    @classmethod
    def parse(cls, data: bytes) -> Signature:
        """Read it; what stands behind it, to fill it up to 8 bytes, is ignored. Raises `MalformedError`."""
        data = data[: header(data, 0, len(data), WHAT)[2]]
        [kind, wrapped, *_] = _fields(sequence(data, WHAT), 2)
        if kind != (OBJECT_IDENTIFIER, SIGNED_DATA):
            raise _bad("is no signed data")
        # version, digest algorithms, content, certificates and revocations where there are any, signers
        fields = _fields(sequence(wrapped[1], WHAT), 4)
        [_, (_, explicit), *_] = _fields(fields[2][1], 2)
        content = _fields(explicit, 1)[0][1]
        signers = elements(fields[-1][1], WHAT)
        if len(signers) != 1:
            raise _bad(f"has {len(signers)} signers, not one")
        signer = _Signer.parse(signers[0][1])
        chain = _chain(signer, _certificates(data))
        return cls(content, chain, bool(chain) and signer.signed(content, chain[0]))


@dataclass(frozen=True, slots=True)
class _Signer:
    """What SignerInfo says: the certificate's issuer (DER) and number, and the signature itself."""

    issuer: bytes
    number: int
    algorithm: hashes.HashAlgorithm | None
    attributes: bytes | None
    signature: bytes

    @classmethod
    def parse(cls, data: bytes) -> _Signer:
        fields = _fields(data, 5)
        [name, number, *_] = _fields(fields[1][1], 2)
        algorithm = ALGORITHMS.get(_fields(fields[2][1], 1)[0][1])
        attributes = fields[3][1] if fields[3][0] == TAGGED else None
        signature = next((value for tag, value in fields if tag == OCTET_STRING), b"")
        return cls(name[1], int.from_bytes(number[1], "big"), algorithm, attributes, signature)

    def signed(self, content: bytes, certificate: Certificate) -> bool:
        """Whether the key of a certificate has signed the content, or attributes with its digest."""
        if self.algorithm is None:
            return False
        message = content
        if self.attributes is not None:
            if _digest(self.algorithm, content) != _message_digest(self.attributes):
                return False
            message = _set(self.attributes)
        try:
            key = certificate.public_key()
            if isinstance(key, rsa.RSAPublicKey):
                key.verify(self.signature, message, padding.PKCS1v15(), self.algorithm)
            elif isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(self.signature, message, ec.ECDSA(self.algorithm))
            else:
                return False
        except (InvalidSignature, *UNREADABLE):
            return False
        return True


def reaches(certificate: Certificate, trusted: Certificate) -> bool:
    """Whether a certificate is `trusted` itself or issued by it."""
    if certificate == trusted:
        return True
    try:
        certificate.verify_directly_issued_by(trusted)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def _certificates(data: bytes) -> list[Certificate]:
    try:
        found = pkcs7.load_der_pkcs7_certificates(data)
    except UNREADABLE:
        raise _bad("brings no certificates that can be read") from None
    if len(found) > MAX_CERTIFICATES:
        raise _bad(f"brings {len(found)} certificates, more than {MAX_CERTIFICATES}")
    return found


def _chain(signer: _Signer, brought: Sequence[Certificate]) -> list[Certificate]:
    """The signer's certificate and those above it."""
    link = next((one for one in brought if _is_of(signer, one)), None)
    chain: list[Certificate] = []
    while link is not None and link not in chain:
        chain.append(link)
        link = next((one for one in brought if one != link and reaches(link, one)), None)
    return chain


def _is_of(signer: _Signer, certificate: Certificate) -> bool:
    try:
        issuer = sequence(certificate.issuer.public_bytes(), WHAT)
    except UNREADABLE:
        return False
    return (issuer, certificate.serial_number) == (signer.issuer, signer.number)


def _message_digest(attributes: bytes) -> bytes | None:
    for _, attribute in elements(attributes, WHAT):
        kind, values = _fields(attribute, 2)[:2]
        if kind == (OBJECT_IDENTIFIER, MESSAGE_DIGEST):
            return _fields(values[1], 1)[0][1]
    return None


def _set(content: bytes) -> bytes:
    """The attributes as they are signed: as a set, not as the tagged field that they are stored as."""
    size = len(content)
    if size < 0x80:
        return bytes((SET, size)) + content
    length = size.to_bytes(-(-size.bit_length() // 8), "big")
    return bytes((SET, 0x80 | len(length))) + length + content


def _digest(algorithm: hashes.HashAlgorithm, data: bytes) -> bytes:
    digest = hashes.Hash(algorithm)
    digest.update(data)
    return digest.finalize()


def _fields(data: bytes, least: int) -> list[tuple[int, bytes]]:
    """Tag and content of each element, of which there must be some. Raises `MalformedError`."""
    found = elements(data, WHAT)
    if len(found) < least:
        raise _bad(f"has {len(found)} fields where there are {least}")
    return found


def _bad(problem: str) -> MalformedError:
    return MalformedError(f"PE image: its signature is broken: it {problem}", hint="sign it again")
