"""What is wrong with a chain of certificates or a revocation list; trust in the root is judged elsewhere.

Source: RFC 5280, sections 4.2, 5 and 6, as far as the three-step chains of Intel's attestation need it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from tdxstack.errors import MalformedError
from tdxstack.verification.certificates import (
    UNREADABLE,
    Certificate,
    Chain,
    common_name,
    uses_ecdsa_sha256,
)
from tdxstack.verification.signatures import PublicKey, SignatureMemory

_KNOWN_CRITICAL = {x509.BasicConstraints.oid, x509.KeyUsage.oid}


@dataclass(frozen=True, slots=True)
class RevocationList:
    """What verification needs of a CRL. `end` is None if it names no next update."""

    issuer_name: str
    start: datetime
    end: datetime | None
    unknown_critical: tuple[str, ...]
    uses_ecdsa_sha256: bool
    signature: bytes
    signed_bytes: bytes
    library: x509.CertificateRevocationList

    @classmethod
    def parse(cls, der: bytes) -> RevocationList:
        """Read a list from DER. Raises `MalformedError`."""
        try:
            crl = x509.load_der_x509_crl(der)
            return cls(
                issuer_name=common_name(crl.issuer),
                start=crl.last_update_utc,
                end=crl.next_update_utc,
                unknown_critical=tuple(
                    extension.oid.dotted_string for extension in crl.extensions if extension.critical
                ),
                uses_ecdsa_sha256=uses_ecdsa_sha256(crl),
                signature=crl.signature,
                signed_bytes=crl.tbs_certlist_bytes,
                library=crl,
            )
        except UNREADABLE as error:
            raise MalformedError(f"revocation list: {error}", hint="fetch the collateral again") from error

    def problems(self, issuer: str, key: PublicKey, memory: SignatureMemory) -> list[str]:
        """Why it is not signed by the authority `issuer` (a common name) with `key`; empty if it is."""
        if self.issuer_name != issuer:
            return [f"the list is issued by {self.issuer_name!r}, not {issuer!r}"]
        problems = [f"the list has the unknown critical extension {oid}" for oid in self.unknown_critical]
        if not self.uses_ecdsa_sha256 or not memory.signed(key, self.signature, self.signed_bytes):
            problems.append(f"the list's signature is not {issuer!r}'s")
        return problems

    def revoked(self, certificates: Iterable[Certificate]) -> list[str]:
        """Those of `certificates`, all of which the list's issuer must have issued, that it revokes."""
        return [
            f"{certificate.name!r}, serial number {certificate.serial_number:x}"
            for certificate in certificates
            if self.library.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
        ]


def chain_problems(chain: Chain, memory: SignatureMemory) -> list[str]:
    """What is wrong with a chain that must be complete up to a self-signed root; empty if nothing.

    Names, signatures, CA flags, path lengths, key usage and unknown critical extensions are judged; validity,
    revocation and trust are not.
    """
    problems = []
    for depth, (certificate, issuer) in enumerate(zip(chain, (*chain[1:], chain[-1]), strict=True)):
        if certificate.issuer != issuer.subject:
            problems.append(
                f"{certificate.name!r} names the issuer {certificate.issuer_name!r}, which is missing"
            )
        elif not certificate.uses_ecdsa_sha256 or not memory.signed(
            issuer.key, certificate.signature, certificate.signed_bytes
        ):
            problems.append(f"the signature on {certificate.name!r} is not {issuer.name!r}'s")
        problems += _extension_problems(certificate, depth)
    return problems


def validity_problems(chain: Iterable[Certificate], time: datetime) -> list[str]:
    """Which certificates are not valid at `time`; empty if all are."""
    return [
        f"{certificate.name!r} is valid from {stamp(certificate.start)} to {stamp(certificate.end)}"
        for certificate in chain
        if not certificate.start <= time <= certificate.end
    ]


def stamp(time: datetime) -> str:
    """A time as ISO 8601 in UTC with seconds, as Intel's documents write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _extension_problems(certificate: Certificate, depth: int) -> list[str]:
    """`depth` 0 is the leaf; the others must be authorities with so many below them."""
    name, extensions = certificate.name, certificate.extensions
    unknown = {extension.oid for extension in extensions if extension.critical} - _KNOWN_CRITICAL
    problems = [f"{name!r} has the unknown critical extension {oid.dotted_string}" for oid in unknown]
    if depth == 0:
        return problems
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        return [*problems, f"{name!r} issues certificates without the extension {error.oid.dotted_string}"]
    if not constraints.ca or not usage.key_cert_sign:
        problems.append(f"{name!r} is no certificate authority")
    elif constraints.path_length is not None and constraints.path_length < depth - 1:
        problems.append(f"{name!r} may have {constraints.path_length} authorities below it, not {depth - 1}")
    return problems
