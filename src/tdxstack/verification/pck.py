"""The PCK certificate: that the platform's key is certified, trusted, valid and not revoked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tdxstack.abi.quote import (
    CERTIFICATION_NAMES,
    CERTIFICATION_PCK_CHAIN,
    CERTIFICATION_PCK_LEAF,
    CertificationData,
)
from tdxstack.errors import MalformedError
from tdxstack.verification.certificates import Certificate, Chain, TrustAnchor, read_chain
from tdxstack.verification.chains import (
    RevocationList,
    chain_problems,
    signer_problems,
    stamp,
    validity_problems,
)
from tdxstack.verification.emulated import is_emulated_fmspc
from tdxstack.verification.inputs import Loaded, ParsedCollateral, Terms, load
from tdxstack.verification.memo import Memo
from tdxstack.verification.policy import PCK_CAS
from tdxstack.verification.result import Check, fail, judged, ok, unknown
from tdxstack.verification.sgx_extension import SgxExtension
from tdxstack.verification.signatures import PublicKey

_NAMES = ("SGX PCK Certificate", "CA", "SGX Root CA")
"""What the common names must contain, leaf to root, as in Intel's library."""

ROOT_MARKED: Final = "its root is marked"
ANCHOR_MARKED: Final = "its anchor is marked"


@dataclass(frozen=True, slots=True, eq=False)
class Pck:
    """The PCK chain of a quote, as far as it could be read, and the anchor that its root is.

    `emulation` says by what signs the platform is an emulated one; empty for hardware.
    """

    chain: Loaded[Chain]
    extension: Loaded[SgxExtension]
    anchor: TrustAnchor | None
    emulation: tuple[str, ...]
    ca: str
    """Which of Intel's authorities issued the certificate: "platform", "processor" or ""."""

    @classmethod
    def of(
        cls,
        certification: CertificationData,
        collateral: ParsedCollateral,
        anchors: Sequence[TrustAnchor],
        pck_chain: bytes | None,
        known: Memo[bytes, Certificate] | None = None,
    ) -> Pck:
        """Find the chain: as the caller gives it, in the quote, or with its issuers in the collateral."""
        chain = load(lambda: _find(certification, collateral, pck_chain, known))
        extension = chain.then(lambda found: found[0].sgx_extension())
        key = chain.value[-1].key.der if chain.value else b""
        anchor = next((anchor for anchor in anchors if anchor.public_key_der == key), None)
        emulation = _emulation(chain.value or (), extension.value, anchor)
        return cls(chain, extension, anchor, emulation, ca_of(chain.value or ()))


def ca_of(chain: Sequence[Certificate]) -> str:
    """Which of Intel's authorities issued the first certificate: "platform", "processor" or ""."""
    name = chain[0].issuer_name.lower() if chain else ""
    return next((ca for ca in PCK_CAS if ca in name), "")


def check_chain(pck: Pck, terms: Terms) -> Check:
    """pck.chain: three certificates from PCK to a self-signed root, each signed by the next."""
    expected = "PCK certificate, its CA and a root, each signed by the next"
    chain = pck.chain.value
    if chain is None:
        return fail("pck.chain", expected, "none", pck.chain.problem)
    problems = chain_problems(chain, terms.memory) + signer_problems(chain[0])
    if len(chain) != len(_NAMES):
        problems.append(f"there are {len(chain)} certificates, not 3")
    for certificate, part in zip(chain, _NAMES, strict=False):
        if part not in certificate.name:
            problems.append(f"the name of {certificate.described} does not contain {part!r}")
    if pck.extension.value is None:
        problems.append(pck.extension.problem)
    found = ", ".join(certificate.name for certificate in chain)
    return judged("pck.chain", not problems, expected, found, "; ".join(problems))


def check_anchor(pck: Pck, terms: Terms) -> Check:
    """pck.trust_anchor: the root's key is one that the caller trusts."""
    if pck.chain.value is None:
        return unknown("pck.trust_anchor", pck.chain.problem)
    root = pck.chain.value[-1]
    return judged(
        "pck.trust_anchor",
        pck.anchor is not None,
        ", ".join(f"{anchor.name} {_key_id(anchor.public_key_der)}" for anchor in terms.anchors),
        f"{root.name} {_key_id(root.key.der)}",
        "the quote leads to a root that is not trusted",
    )


def check_validity(pck: Pck, terms: Terms) -> Check:
    """pck.validity: every certificate of the chain is valid."""
    if pck.chain.value is None:
        return unknown("pck.validity", pck.chain.problem)
    problems = validity_problems(pck.chain.value, terms.time)
    return judged("pck.validity", not problems, "valid at the time", "; ".join(problems) or "valid")


def check_root_crl(pck: Pck, collateral: ParsedCollateral, terms: Terms) -> Check:
    """crl.root: the root's revocation list is signed by the anchor and fresh."""
    anchor, chain = pck.anchor, pck.chain.value
    if anchor is not None and chain is not None:
        return _check_crl(
            "crl.root", collateral.root_ca_crl, anchor.name, Loaded(chain[-1].key), terms, chain[-1]
        )
    anchor = terms.anchors[0]
    return _check_crl("crl.root", collateral.root_ca_crl, anchor.name, load(anchor.public_key), terms)


def check_pck_crl(pck: Pck, collateral: ParsedCollateral, terms: Terms) -> Check:
    """crl.pck: the revocation list of the PCK certificate's issuer is signed by it and fresh."""
    chain = pck.chain.value
    if chain is None or len(chain) < 2:
        # A list that is not there is told whatever the chain is.
        key: Loaded[PublicKey] = Loaded(None, pck.chain.problem or "the PCK certificate's issuer is missing")
        return _check_crl("crl.pck", collateral.pck_crl, "", key, terms)
    return _check_crl("crl.pck", collateral.pck_crl, chain[1].name, Loaded(chain[1].key), terms, chain[1])


def check_revocation(pck: Pck, collateral: ParsedCollateral) -> Check:
    """pck.revocation: neither the PCK certificate nor its issuer is on a list."""
    chain = pck.chain.value
    if chain is None:
        return unknown("pck.revocation", pck.chain.problem)
    # By position and not by names: that each list is its issuer's is judged by crl.pck and crl.root.
    lists = ((chain[:1], collateral.pck_crl), (chain[1:], collateral.root_ca_crl))
    revoked = [name for issued, crl in lists if crl.value is not None for name in crl.value.revoked(issued)]
    if revoked:
        return fail("pck.revocation", "no revoked certificate", "; ".join(revoked))
    missing = [crl.problem for _, crl in lists if crl.value is None]
    if missing:
        return unknown("pck.revocation", "; ".join(missing))
    return ok("pck.revocation", "no revoked certificate", "none is revoked")


def _emulation(chain: Chain, extension: SgxExtension | None, anchor: TrustAnchor | None) -> tuple[str, ...]:
    signs = {
        ROOT_MARKED: any(certificate.is_emulated for certificate in chain),
        ANCHOR_MARKED: anchor is not None and anchor.emulated,
        "its FMSPC is reserved": extension is not None and is_emulated_fmspc(extension.fmspc),
    }
    return tuple(sign for sign, shown in signs.items() if shown)


def _find(
    certification: CertificationData,
    collateral: ParsedCollateral,
    pck_chain: bytes | None,
    known: Memo[bytes, Certificate] | None,
) -> Chain:
    if pck_chain is not None:
        return read_chain(pck_chain, known)
    if certification.type == CERTIFICATION_PCK_CHAIN:
        return read_chain(certification.data, known)
    if certification.type == CERTIFICATION_PCK_LEAF:
        leaf = read_chain(certification.data, known)[:1]
        return (*leaf, *read_chain(collateral.pck_crl_issuer_chain, known))
    name = CERTIFICATION_NAMES.get(certification.type, "unknown")
    raise MalformedError(
        f"the quote has certification data of type {certification.type} ({name}) and no PCK certificate",
        hint="give the PCK certificate chain of the platform",
    )


def _check_crl(
    check_id: str,
    crl: Loaded[RevocationList],
    issuer: str,
    key: Loaded[PublicKey],
    terms: Terms,
    certificate: Certificate | None = None,
) -> Check:
    """`certificate` is the issuer's, where the quote has led to it."""
    time = stamp(terms.time)
    expected = "a list signed by its issuer, current at the time"
    value = crl.value
    if value is None:
        return fail(check_id, expected, "none", crl.problem)
    if key.value is None:
        return unknown(check_id, key.problem)
    problems = value.problems(issuer, key.value, terms.memory)
    if certificate is not None:
        problems += value.issuer_problems(certificate)
    if terms.time < value.start:
        problems.append(f"the list is issued after {time}")
    if value.end is None or terms.time - value.end > terms.policy.collateral_grace:
        problems.append(f"the list is out of date at {time}")
    found = f"{value.issuer_name}, {stamp(value.start)} to {stamp(value.end) if value.end else 'no end'}"
    return judged(check_id, not problems, expected, found, "; ".join(problems))


def _key_id(public_key_der: bytes) -> str:
    return f"(SHA-256 of the key {hashlib.sha256(public_key_der).hexdigest()})"
