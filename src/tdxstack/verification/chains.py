"""What is wrong with a chain of certificates or a revocation list; trust in the root is judged elsewhere.

Source: RFC 5280, sections 4.2, 5 and 6, as far as the three-step chains of Intel's attestation need it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from tdxstack.errors import MalformedError
from tdxstack.verification import der
from tdxstack.verification.certificates import (
    UNREADABLE,
    Certificate,
    Chain,
    uses_ecdsa_sha256,
)
from tdxstack.verification.signatures import PublicKey, SignatureMemory

_PARTIAL = {x509.DeltaCRLIndicator.oid, x509.IssuingDistributionPoint.oid}
"""Extensions of lists that do not hold all that their issuer has revoked, critical or not."""


@dataclass(frozen=True, slots=True)
class RevocationList:
    """What verification needs of a CRL. `issuer` is a whole name in DER, `issuer_name` its common name.

    `end` is None if it names no next update; `unusable` are extensions that it should not have.
    """

    issuer: bytes
    issuer_name: str
    start: datetime
    end: datetime | None
    unusable: tuple[str, ...]
    uses_ecdsa_sha256: bool
    signature: bytes
    signed_bytes: bytes
    library: x509.CertificateRevocationList

    @classmethod
    def parse(cls, data: bytes) -> RevocationList:
        """Read a list from DER. Raises `MalformedError`."""
        try:
            crl = x509.load_der_x509_crl(data)
            signed = der.signed_part(data, "revocation list")
            issuer = _issuer(signed)
            return cls(
                issuer=issuer,
                issuer_name=der.common_name(issuer),
                start=crl.last_update_utc,
                end=crl.next_update_utc,
                unusable=tuple(
                    extension.oid.dotted_string
                    for extension in crl.extensions
                    if extension.critical or extension.oid in _PARTIAL
                ),
                uses_ecdsa_sha256=uses_ecdsa_sha256(crl),
                signature=crl.signature,
                signed_bytes=signed,
                library=crl,
            )
        except UNREADABLE as error:
            raise MalformedError(f"revocation list: {error}", hint="fetch the collateral again") from error

    def problems(self, issuer: str, key: PublicKey, memory: SignatureMemory) -> list[str]:
        """Why it is not signed by the authority `issuer` (a common name) with `key`; empty if it is."""
        if self.issuer_name != issuer:
            return [f"the list is issued by {self.issuer_name!r}, not {issuer!r}"]
        problems = [f"the list has the extension {oid}, which is not understood" for oid in self.unusable]
        if not self.uses_ecdsa_sha256 or not memory.signed(key, self.signature, self.signed_bytes):
            problems.append(f"the list's signature is not {issuer!r}'s")
        return problems

    def issuer_problems(self, issuer: Certificate) -> list[str]:
        """Why `issuer`, whose common name and key fit, did not issue it all the same; empty if it did."""
        problems = []
        if self.issuer != issuer.subject:
            problems.append(f"the list names another {self.issuer_name!r} as its issuer")
        usage = issuer.uses.key_usage
        if usage is None or not usage.crl_sign:
            problems.append(f"{issuer.described} may not sign revocation lists")
        return problems

    def revoked(self, certificates: Iterable[Certificate]) -> list[str]:
        """Those of `certificates`, all of which the list's issuer must have issued, that it revokes."""
        return [
            certificate.described
            for certificate in certificates
            if self.library.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
        ]


def _issuer(signed: bytes) -> bytes:
    """The issuer in the signed part of a list (RFC 5280, section 5.1): a name in DER."""
    fields = der.pieces(der.sequence(signed, "revocation list"), "revocation list")
    fields = fields[1:] if fields and fields[0][0] == der.INTEGER else fields
    if len(fields) < 3:
        raise MalformedError(f"revocation list: {len(fields)} fields", hint="fetch the collateral again")
    return fields[1]


def chain_problems(chain: Chain, memory: SignatureMemory) -> list[str]:
    """What is wrong with a chain that must be complete up to a self-signed root; empty if nothing.

    Names, signatures, CA flags, path lengths, key usage and unknown critical extensions are judged; validity,
    revocation and trust are not.
    """
    problems = []
    for depth, (certificate, issuer) in enumerate(zip(chain, (*chain[1:], chain[-1]), strict=True)):
        if certificate.issuer != issuer.subject:
            problems.append(
                f"{certificate.described} names the issuer {certificate.issuer_name!r}, which is missing"
            )
        elif not certificate.uses_ecdsa_sha256 or not memory.signed(
            issuer.key, certificate.signature, certificate.signed_bytes
        ):
            problems.append(f"the signature on {certificate.described} is not that of {issuer.described}")
        problems += _extension_problems(certificate, depth)
    return problems


def signer_problems(signer: Certificate) -> list[str]:
    """Why the key of a certificate at the end of a chain is not one to sign evidence; empty if it is."""
    constraints, usage = signer.uses.constraints, signer.uses.key_usage
    problems = []
    if constraints is not None and constraints.ca:
        problems.append(
            f"{signer.described} is a certificate authority, which signs nothing but certificates"
        )
    if usage is not None and not usage.digital_signature:
        problems.append(f"the key of {signer.described} is not one for digital signatures")
    return problems


def validity_problems(chain: Iterable[Certificate], time: datetime) -> list[str]:
    """Which certificates are not valid at `time`; empty if all are."""
    return [
        f"{certificate.described} is valid from {stamp(certificate.start)} to {stamp(certificate.end)}"
        for certificate in chain
        if not certificate.start <= time <= certificate.end
    ]


def stamp(time: datetime) -> str:
    """A time as ISO 8601 in UTC with seconds, as Intel's documents write it."""
    return time.isoformat(timespec="seconds")[:19] + "Z"


def _extension_problems(certificate: Certificate, depth: int) -> list[str]:
    """`depth` 0 is the leaf; the others must be authorities with so many below them."""
    what, uses = certificate.described, certificate.uses
    problems = [f"{what} has the unknown critical extension {oid}" for oid in uses.unknown_critical]
    if depth == 0:
        return problems
    constraints, usage = uses.constraints, uses.key_usage
    if constraints is None or usage is None or not constraints.ca or not usage.key_cert_sign:
        problems.append(f"{what} is no certificate authority")
    elif constraints.path_length is not None and constraints.path_length < depth - 1:
        problems.append(f"{what} may have {constraints.path_length} authorities below it, not {depth - 1}")
    return problems
