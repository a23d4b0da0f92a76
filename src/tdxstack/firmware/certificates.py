"""Certificates that people name to be enrolled."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from tdxstack.errors import MalformedError, UnavailableError
from tdxstack.firmware.keys import RSA_BITS
from tdxstack.verification.certificates import UNREADABLE

MAX_SIZE = 64 << 10


def read_certificate(path: Path) -> x509.Certificate:
    """The one certificate in a file, PEM or DER. Raises `MalformedError`, or `UnavailableError`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise UnavailableError(
            f"certificate {path} cannot be read: {error.strerror}", hint="name an X.509 certificate"
        ) from None
    if data.count(b"-----BEGIN") > 1 or len(data) > MAX_SIZE:
        raise MalformedError(f"{path} holds more than one certificate", hint="give one certificate a file")
    try:
        if b"-----BEGIN" in data:
            return x509.load_pem_x509_certificate(data)
        return x509.load_der_x509_certificate(data)
    except UNREADABLE:
        raise MalformedError(
            f"{path} is no X.509 certificate in PEM or DER", hint="give the certificate, not the private key"
        ) from None


def certificate_warnings(path: Path, now: datetime) -> Iterator[str]:
    """What may keep firmware or others from using a certificate. Raises as `read_certificate`."""
    certificate = read_certificate(path)
    if now > certificate.not_valid_after_utc:
        yield f"{path} expired on {certificate.not_valid_after_utc:%Y-%m-%d}; firmware takes it all the same"
    if now < certificate.not_valid_before_utc:
        yield (
            f"{path} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}; "
            "firmware takes it all the same"
        )
    try:
        key = certificate.public_key()
    except UNREADABLE:
        key = None
    if not isinstance(key, rsa.RSAPublicKey):
        yield f"{path} has no RSA key; edk2 verifies nothing else"
    elif key.key_size != RSA_BITS:
        yield f"{path} has an RSA key of {key.key_size} bits; some firmware verifies only {RSA_BITS}"
