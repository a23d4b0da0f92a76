"""Certificates and revocation lists of any shape, signed as asked."""

from __future__ import annotations

from collections.abc import Container, Iterable
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey
Extension = tuple[x509.ExtensionType, bool]
"""An extension and whether it is critical."""

Digest = hashes.SHA224 | hashes.SHA256 | hashes.SHA384 | hashes.SHA512


def pem(*certificates: x509.Certificate) -> bytes:
    """Certificates as text, one after the other."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def remade(
    certificate: x509.Certificate,
    issuer_key: Key,
    *,
    name: str | None = None,
    issuer: x509.Name | None = None,
    key: ec.EllipticCurvePublicKey | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    without: Container[x509.ObjectIdentifier] = (),
    extensions: Iterable[Extension] = (),
    digest: Digest | None = None,
) -> x509.Certificate:
    """The same certificate signed again, changed as asked; `extensions` replace those of their kind."""
    added = list(extensions)
    gone = {extension.oid for extension, _ in added}
    public_key = key or certificate.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    builder = (
        x509.CertificateBuilder()
        .subject_name(renamed(certificate.subject, name) if name else certificate.subject)
        .issuer_name(issuer or certificate.issuer)
        .serial_number(certificate.serial_number)
        .public_key(public_key)
        .not_valid_before(start or certificate.not_valid_before_utc)
        .not_valid_after(end or certificate.not_valid_after_utc)
    )
    for extension in certificate.extensions:
        if extension.oid not in without and extension.oid not in gone:
            builder = builder.add_extension(extension.value, extension.critical)
    for value, critical in added:
        builder = builder.add_extension(value, critical)
    return builder.sign(issuer_key, digest or hashes.SHA256())


def renamed(name: x509.Name, common_name: str) -> x509.Name:
    """`name` with another common name."""
    others = [attribute for attribute in name if attribute.oid != NameOID.COMMON_NAME]
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name), *others])


def usage(*names: str) -> Extension:
    """A critical key usage of these bits and no others."""
    bits = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{bit: bit in names for bit in bits}), True


def authority(*, ca: bool = True, path_length: int | None = None) -> Extension:
    """Critical basic constraints."""
    return x509.BasicConstraints(ca=ca, path_length=path_length), True


def revocations(
    issuer: x509.Certificate,
    key: Key,
    issued: datetime,
    *,
    name: x509.Name | None = None,
    valid_for: timedelta = timedelta(days=30),
    revoked: Iterable[int] = (),
    reason: x509.ReasonFlags | None = None,
    extensions: Iterable[Extension] = (),
    digest: Digest | None = None,
) -> bytes:
    """A revocation list of `issuer` in DER, with what Intel's have: number and authority key identifier."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name or issuer.subject)
        .last_update(issued)
        .next_update(issued + valid_for)
        .add_extension(x509.CRLNumber(int(issued.timestamp())), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    for number in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(number).revocation_date(issued)
        if reason is not None:
            entry = entry.add_extension(x509.CRLReason(reason), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(key, digest or hashes.SHA256()).public_bytes(Encoding.DER)
