"""Certificates, chains of them as PEM, and the roots that a verifier trusts.

Source: Intel SGX PCK Certificate and Certificate Revocation List Profile Specification; RFC 5280.
"""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from tdxstack.errors import MalformedError
from tdxstack.verification import der
from tdxstack.verification.emulated import EMULATED_MARKER_OID
from tdxstack.verification.memo import Memo
from tdxstack.verification.sgx_extension import SGX_EXTENSION_OID, SgxExtension
from tdxstack.verification.signatures import PublicKey

MAX_CHAIN: Final = 4
"""Certificates read from one chain; PCK chains have three, TCB signing chains two."""

MAX_CHAIN_SIZE: Final = 16384
"""Bytes of the text of a chain; PCK chains have about 4,000."""

UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the X.509 library raises for bytes that it does not like."""

_EMULATED_MARKER = x509.ObjectIdentifier(EMULATED_MARKER_OID)
_SGX_EXTENSION = x509.ObjectIdentifier(SGX_EXTENSION_OID)
_PEM_BEGIN = b"-----BEGIN CERTIFICATE-----"
_PEM_END = b"-----END CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Uses:
    """What the extensions of a certificate say: None where one is missing."""

    constraints: x509.BasicConstraints | None
    key_usage: x509.KeyUsage | None
    sgx_extension: bytes | None
    is_emulated: bool
    unknown_critical: tuple[str, ...]

    @classmethod
    def of(cls, extensions: x509.Extensions) -> Uses:
        """Look at each once."""
        constraints, key_usage, sgx_extension, is_emulated = None, None, None, False
        unknown = []
        for extension in extensions:
            value = extension.value
            if isinstance(value, x509.BasicConstraints):
                constraints = value
            elif isinstance(value, x509.KeyUsage):
                key_usage = value
            else:
                if extension.critical:
                    unknown.append(extension.oid.dotted_string)
                if isinstance(value, x509.UnrecognizedExtension):
                    is_emulated = is_emulated or extension.oid == _EMULATED_MARKER
                    sgx_extension = value.value if extension.oid == _SGX_EXTENSION else sgx_extension
        return cls(constraints, key_usage, sgx_extension, is_emulated, tuple(unknown))


@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """What verification needs of a certificate, all of it read at once: the library decodes late.

    `name` is the subject's common name; `subject` and `issuer` are whole names in DER.
    """

    name: str
    subject: bytes
    issuer: bytes
    serial_number: int
    start: datetime
    end: datetime
    key: PublicKey
    uses: Uses
    uses_ecdsa_sha256: bool
    signature: bytes
    signed_bytes: bytes

    @classmethod
    def parse(cls, data: bytes) -> Certificate:
        """Read one from DER. Raises `MalformedError`."""
        try:
            certificate = x509.load_der_x509_certificate(data)
            signed = der.signed_part(data, "certificate")
            issuer, subject, key = _names_and_key(signed)
            name = der.common_name(subject)
            if certificate.serial_number <= 0:  # RFC 5280, 4.1.2.2; the library looks up none below zero
                raise MalformedError(
                    f"certificate {name!r}: serial number {certificate.serial_number} is not positive",
                    hint="the certificate is damaged",
                )
            return cls(
                name=name,
                subject=subject,
                issuer=issuer,
                serial_number=certificate.serial_number,
                start=certificate.not_valid_before_utc,
                end=certificate.not_valid_after_utc,
                key=PublicKey(certificate.public_key(), f"certificate {name!r}", key),
                uses=Uses.of(certificate.extensions),
                uses_ecdsa_sha256=uses_ecdsa_sha256(certificate),
                signature=certificate.signature,
                signed_bytes=signed,
            )
        except UNREADABLE as error:
            raise MalformedError(f"certificate: {error}", hint="the certificate is damaged") from error

    @property
    def described(self) -> str:
        """Subject and serial number, for messages."""
        return f"{self.name!r} (serial number {self.serial_number:x})"

    @property
    def issuer_name(self) -> str:
        """The issuer's common name, "" if it has none."""
        return der.common_name(self.issuer)

    @property
    def is_emulated(self) -> bool:
        """Whether it carries the mark of the emulated platform's root."""
        return self.uses.is_emulated

    def sgx_extension(self) -> SgxExtension:
        """The SGX extension of a PCK certificate. Raises `MalformedError` if it is missing or damaged."""
        if self.uses.sgx_extension is None:
            raise MalformedError(
                f"certificate {self.name!r} has no SGX extension {SGX_EXTENSION_OID}",
                hint="this is not a PCK certificate",
            )
        return SgxExtension.parse(self.uses.sgx_extension)


Chain = tuple[Certificate, ...]


@dataclass(frozen=True, slots=True)
class TrustAnchor:
    """A root that the caller trusts: its common name, its SubjectPublicKeyInfo in DER, if it is emulated.

    `signature` (DER) and `signed_digest` (SHA-256) are those of a certificate that the key is known to have
    signed, which saves verifying that one; empty if there is none.
    """

    name: str
    public_key_der: bytes
    emulated: bool = False
    signature: bytes = b""
    signed_digest: bytes = b""

    @classmethod
    def from_certificate(cls, data: bytes) -> TrustAnchor:
        """Trust the key of a certificate in PEM or DER. Raises `MalformedError`."""
        first, *more = read_chain(data) if b"-----BEGIN" in data else (Certificate.parse(data),)
        if more:
            raise MalformedError(
                f"trust anchor: {1 + len(more)} certificates", hint="give the root's certificate alone"
            )
        return cls(first.name, first.key.der, first.is_emulated)

    def public_key(self) -> PublicKey:
        """The key, loaded. Raises `MalformedError` if it is not on P-256."""
        return PublicKey.of_der(self.public_key_der, f"trust anchor {self.name!r}")


INTEL_SGX_ROOT_CA: Final = TrustAnchor(
    "Intel SGX Root CA",
    bytes.fromhex(
        "3059301306072a8648ce3d020106082a8648ce3d030107034200"
        "040ba9c4c0c0c86193a3fe23d6b02cda10a8bbd4e88e48b4458561a36e705525f5"
        "67918e2edc88e40d860bd0cc4ee26aacc988e505a953558c453f6b0904ae7394"
    ),
    signature=bytes.fromhex(
        "3046022100e5bfe50911f92f428920dc368a302ee3d12ec5867ff622ec6497f78060c13c20"
        "022100e09d25ac7a0cb3e5e8e68fec5fa3bd416c47440bd950639d450edcbea4576aa2"
    ),
    signed_digest=bytes.fromhex("0e1c8ad1fad9254ad1d0bc362c4c83dad27f32fc903cbb9cda58349ec2a4626a"),
)
"""The production root of SGX and TDX, from https://certificates.trustedservices.intel.com
/Intel_SGX_Provisioning_Certification_RootCA.cer; SHA-256 of the key
a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e. The signature is the root's own."""


def read_chain(data: bytes, known: Memo[bytes, Certificate] | None = None) -> Chain:
    """The certificates in PEM text, ordered from leaf to root by their names. Raises `MalformedError`.

    Text around the certificates and NUL bytes after them are ignored, as quoting libraries leave both.
    `known` remembers certificates by their PEM text.
    """
    if len(data) > MAX_CHAIN_SIZE:
        raise MalformedError(
            f"certificate chain: {len(data)} bytes, more than {MAX_CHAIN_SIZE}",
            hint="give one chain, leaf to root",
        )
    known = known or Memo(MAX_CHAIN)
    certificates: list[Certificate] = []
    rest = data
    while _PEM_END in rest:
        head, rest = rest.split(_PEM_END, 1)
        if len(certificates) == MAX_CHAIN:
            raise MalformedError(
                f"certificate chain: more than {MAX_CHAIN} certificates", hint="give one chain, leaf to root"
            )
        pem = head[head.rfind(_PEM_BEGIN) :]
        certificates.append(known.get(pem, partial(_read_certificate, pem, len(certificates))))
    if not certificates:
        raise MalformedError(
            f"certificate chain: no PEM certificate in {len(data)} bytes", hint="give the chain in PEM"
        )
    return _ordered(certificates)


def is_marked_emulated(certificate: x509.Certificate) -> bool:
    """Whether a certificate carries the mark of the emulated platform's root. Raises `MalformedError`."""
    return Certificate.parse(certificate.public_bytes(Encoding.DER)).is_emulated


def uses_ecdsa_sha256(signed: x509.Certificate | x509.CertificateRevocationList) -> bool:
    """Whether the signature is said to be ECDSA with SHA-256."""
    return signed.signature_algorithm_oid == x509.SignatureAlgorithmOID.ECDSA_WITH_SHA256


def _read_certificate(pem: bytes, number: int) -> Certificate:
    """The certificate in PEM without the end of its armour."""
    what = f"certificate chain: certificate {number}"
    if not pem.startswith(_PEM_BEGIN):
        raise MalformedError(f"{what} does not begin", hint="the PEM text is damaged")
    try:
        return Certificate.parse(b64decode(b"".join(pem[len(_PEM_BEGIN) :].split()), validate=True))
    except (ValueError, MalformedError) as error:
        raise MalformedError(f"{what}: {error}", hint="the PEM text is damaged") from error


def _names_and_key(signed: bytes) -> tuple[bytes, bytes, bytes]:
    """Issuer, subject and public key in the signed part of a certificate (RFC 5280, section 4.1), in DER."""
    fields = der.pieces(der.sequence(signed, "certificate"), "certificate")
    fields = fields[1:] if fields and fields[0][0] == der.VERSION else fields
    if len(fields) < 6:
        raise MalformedError(f"certificate: {len(fields)} fields", hint="the certificate is damaged")
    _serial_number, _algorithm, issuer, _validity, subject, key = fields[:6]
    return issuer, subject, key


def _ordered(certificates: list[Certificate]) -> Chain:
    """Leaf first, each followed by its issuer; the given order where names do not tell."""
    issuers = {
        certificate.issuer for certificate in certificates if certificate.issuer != certificate.subject
    }
    leaves = [certificate for certificate in certificates if certificate.subject not in issuers]
    ordered = [leaves[0] if leaves else certificates[0]]
    rest = [certificate for certificate in certificates if certificate is not ordered[0]]
    while rest:
        wanted = ordered[-1].issuer
        following = next((certificate for certificate in rest if certificate.subject == wanted), rest[0])
        ordered.append(following)
        rest = [certificate for certificate in rest if certificate is not following]
    return tuple(ordered)
