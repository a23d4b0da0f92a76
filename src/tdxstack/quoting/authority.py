"""Certificates and revocation lists of the emulated platform, in the shape of Intel's.

Source: Intel SGX PCK Certificate and Certificate Revocation List Profile Specification, section 1.3. There
are no CRL distribution points: the lists are local, and are handed out with the rest of the collateral.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from tdxstack.verification.emulated import EMULATED_MARKER_DER, EMULATED_MARKER_OID

ROOT_NAME: Final = "tdxstack emulated SGX Root CA"
PLATFORM_CA_NAME: Final = "tdxstack emulated SGX PCK Platform CA"
PCK_NAME: Final = "tdxstack emulated SGX PCK Certificate"
TCB_SIGNING_NAME: Final = "tdxstack emulated SGX TCB Signing"
"""Verifiers look for the words of Intel's names in these, as "SGX PCK Certificate"."""

_ORGANIZATION: Final = "tdxstack emulated"

# Fixed, so that a wrong clock on the day of first use does no lasting harm.
_NOT_BEFORE = datetime(2024, 1, 1, tzinfo=UTC)
_NOT_AFTER = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)

MARKER: Final = x509.UnrecognizedExtension(x509.ObjectIdentifier(EMULATED_MARKER_OID), EMULATED_MARKER_DER)

Key = ec.EllipticCurvePrivateKey


def new_key() -> Key:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def raw_signature(key: Key, data: bytes) -> bytes:
    """ECDSA with SHA-256 over `data`: r and s, 32 bytes each, big-endian, as quotes and the PCS have it."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def root_certificate(key: Key) -> x509.Certificate:
    """The self-signed root; its extension says that it is emulated."""
    name = _name(ROOT_NAME)
    builder = _builder(name, name, key.public_key(), key.public_key())
    return _authority(builder, path_length=1).add_extension(MARKER, critical=False).sign(key, hashes.SHA256())


def platform_ca_certificate(key: Key, root: x509.Certificate, root_key: Key) -> x509.Certificate:
    """The authority that issues PCK certificates."""
    builder = _builder(_name(PLATFORM_CA_NAME), root.subject, key.public_key(), root_key.public_key())
    return _authority(builder, path_length=0).sign(root_key, hashes.SHA256())


def pck_certificate(
    key: Key, sgx_extension: x509.UnrecognizedExtension, issuer: x509.Certificate, issuer_key: Key
) -> x509.Certificate:
    """The certificate of the platform's provisioning certification key."""
    builder = _builder(_name(PCK_NAME), issuer.subject, key.public_key(), issuer_key.public_key())
    builder = _end_entity(builder).add_extension(sgx_extension, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def tcb_signing_certificate(key: Key, root: x509.Certificate, root_key: Key) -> x509.Certificate:
    """The certificate of the key that signs TCB info and QE identity."""
    builder = _builder(_name(TCB_SIGNING_NAME), root.subject, key.public_key(), root_key.public_key())
    return _end_entity(builder).sign(root_key, hashes.SHA256())


def empty_crl(
    issuer: x509.Certificate, issuer_key: Key, *, number: int, issued: datetime, valid_for: timedelta
) -> x509.CertificateRevocationList:
    """A revocation list that revokes nothing."""
    return (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(issued)
        .next_update(issued + valid_for)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
        .sign(issuer_key, hashes.SHA256())
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANIZATION),
        ]
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _authority(builder: x509.CertificateBuilder, *, path_length: int) -> x509.CertificateBuilder:
    return builder.add_extension(
        x509.BasicConstraints(ca=True, path_length=path_length), critical=True
    ).add_extension(_key_usage(authority=True), critical=True)


def _end_entity(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
    return builder.add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    ).add_extension(_key_usage(authority=False), critical=True)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=not authority,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
