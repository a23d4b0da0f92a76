"""ECDSA with SHA-256 on P-256, the one signature scheme of Intel's attestation."""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from tdxstack.errors import MalformedError

P256_HINT: Final = "Intel's attestation uses ECDSA keys on P-256 throughout"

_ECDSA = ec.ECDSA(Prehashed(hashes.SHA256()))
_SPKI_PREFIX = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
_MAX_REMEMBERED = 4096


class PublicKey:
    """A P-256 public key."""

    __slots__ = ("_der", "_key")

    def __init__(self, key: object, what: str, der: bytes = b"") -> None:
        """Take a key of the library, and its `der` if that is known.

        Raises `MalformedError` if it is of another kind or curve.
        """
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise MalformedError(
                f"{what} has a {type(key).__name__}, not an ECDSA key on P-256", hint=P256_HINT
            )
        self._key = key
        self._der = der

    @property
    def der(self) -> bytes:
        """The SubjectPublicKeyInfo."""
        if not self._der:
            self._der = self._key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return self._der

    @classmethod
    def of_point(cls, point: bytes, what: str) -> PublicKey:
        """The key of 64 bytes x, y (big-endian). Raises `MalformedError` if that is no point of the curve."""
        return cls.of_der(_SPKI_PREFIX + point, what)

    @classmethod
    def of_der(cls, der: bytes, what: str) -> PublicKey:
        """The key of a SubjectPublicKeyInfo. Raises `MalformedError`."""
        try:
            key = load_der_public_key(der)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise MalformedError(f"{what}: {error}", hint=P256_HINT) from error
        return cls(key, what)

    def signed(self, signature: bytes, data: bytes) -> bool:
        """Whether `signature` (DER) is this key's over `data`."""
        return self.signed_digest(signature, hashlib.sha256(data).digest())

    def signed_digest(self, signature: bytes, digest: bytes) -> bool:
        """Whether `signature` (DER) is this key's over data with this SHA-256 digest."""
        try:
            self._key.verify(signature, digest, _ECDSA)
        except InvalidSignature:
            return False
        return True


def der_signature(raw: bytes) -> bytes:
    """A signature of 64 bytes r, s (big-endian) in DER. Of any other length: one that is never valid."""
    if len(raw) != 64:
        return b""
    return encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))


class SignatureMemory:
    """Signatures that were found good, so that what many quotes share is verified once.

    It speaks of signatures alone and never of time, trust or revocation: those are judged anew each time.
    """

    __slots__ = ("_good",)

    def __init__(self) -> None:
        self._good: set[tuple[bytes, bytes, bytes]] = set()

    def trust(self, key_der: bytes, signature: bytes, digest: bytes) -> None:
        """Take it that `signature`, unless empty, is that of the key over data with this SHA-256 digest."""
        if signature:
            self._good.add((key_der, signature, digest))

    def signed(self, key: PublicKey, signature: bytes, data: bytes) -> bool:
        """As `PublicKey.signed`, from memory where possible."""
        digest = hashlib.sha256(data).digest()
        entry = (key.der, signature, digest)
        if entry in self._good:
            return True
        if not key.signed_digest(signature, digest):
            return False
        if len(self._good) >= _MAX_REMEMBERED:
            self._good.clear()
        self._good.add(entry)
        return True
