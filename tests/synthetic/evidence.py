"""Quotes and collateral of any shape, made with the keys of an emulated platform: every signature is genuine.

What is not published (certification types 1 to 4, body type 4, revoked platforms, TDs that should be
relaunched, items at the ends of their validity) is made here, and what nobody should make as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from tdxstack.abi.quote import (
    CERTIFICATION_PCK_CHAIN,
    TEE_TYPE_SGX,
    TEE_TYPE_TDX,
    CertificationData,
    Quote,
    QuoteBody,
    QuoteHeader,
    QuoteSignature,
    TdBody10,
)
from tdxstack.abi.sgx_report import SgxReportBody
from tdxstack.collateral.bundle import QE_IDENTITY, TCB_INFO, Collateral
from tdxstack.collateral.signed_json import SignedJson
from tdxstack.quoting.authority import new_key, pck_certificate, raw_signature
from tdxstack.quoting.pck import sgx_extension
from tdxstack.quoting.pki import Pki, open_pki
from tdxstack.quoting.platform import EmulatedPlatform
from tdxstack.verification.certificates import TrustAnchor
from tdxstack.verification.policy import Policy
from tdxstack.verification.quote import QuoteResult, Verifier
from tests.synthetic.certificates import Key, pem, revocations

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
AUTHENTICATION_DATA = bytes(range(32))
ALLOW_EMULATED = Policy(allow_emulated=True)

Edit = Callable[[dict[str, Any]], object]
"""A change of a JSON object in place."""


@dataclass(frozen=True)
class Evidence:
    """A quote with what it takes to verify it."""

    quote: Quote
    collateral: Collateral
    anchors: tuple[TrustAnchor, ...]
    time: datetime = NOW
    policy: Policy = ALLOW_EMULATED
    pck_chain: bytes | None = None

    def verify(self) -> QuoteResult:
        """Verify it, having read the quote from its bytes."""
        return Verifier(anchors=self.anchors, policy=self.policy).verify(
            Quote.parse(self.quote.to_bytes()), self.collateral, time=self.time, pck_chain=self.pck_chain
        )

    def failing(self) -> list[str]:
        """The checks that forbid acceptance."""
        return [check.id for check in self.verify().failures()]

    def but(self, **changes: Any) -> Evidence:
        """The same with other parts; names of items of the collateral replace those."""
        items = {name: changes.pop(name) for name in Collateral.__slots__ if name in changes}
        return replace(self, collateral=replace(self.collateral, **items), **changes)


class Workshop:
    """An emulated platform whose keys are all at hand."""

    def __init__(self, directory: Path, now: datetime = NOW) -> None:
        """Make a new platform in `directory`, with collateral that is current at `now`."""
        self.now = now
        self.pki: Pki = open_pki(directory / "pki", now)
        self.root, self.platform_ca = self.pki.root, self.pki.platform_ca
        self.pck, self.tcb_signing = self.pki.pck, self.pki.tcb_signing
        self.root_key, self.platform_ca_key = self._key("root-ca"), self._key("pck-platform-ca")
        self.pck_key, self.tcb_signing_key = self._key("pck"), self._key("tcb-signing")
        self.platform = self.pki.platform

    def _key(self, name: str) -> Key:
        loaded = load_pem_private_key((self.pki.directory / f"{name}.key").read_bytes(), password=None)
        assert isinstance(loaded, Key)
        return loaded

    @property
    def anchor(self) -> TrustAnchor:
        """The platform's root as a trust anchor."""
        return TrustAnchor.from_certificate(self.root.public_bytes(Encoding.PEM))

    @property
    def root_der(self) -> bytes:
        """The root certificate in DER."""
        return self.root.public_bytes(Encoding.DER)

    def evidence(self, quote: Quote | None = None, **changes: Any) -> Evidence:
        """Evidence that is accepted, but for what `changes` say as in `Evidence.but`."""
        return Evidence(quote or self.quote(), self.pki.collateral(), (self.anchor,)).but(**changes)

    def body(self, kind: type[TdBody10] = TdBody10, **changes: Any) -> TdBody10:
        """What a TD on this platform reports."""
        platform = self.platform
        fields: dict[str, Any] = {
            "tee_tcb_svn": platform.tee_tcb_svn,
            "mrseam": platform.mrseam,
            "mrsignerseam": platform.mrsignerseam,
            "td_attributes": 1 << 28,
            "xfam": 0xE7,
            "mrtd": hashlib.sha384(b"firmware").digest(),
            "report_data": bytes(64),
        }
        if kind.BODY_TYPE >= 3:
            fields["tee_tcb_svn2"] = platform.tee_tcb_svn
        return kind(**{**fields, **changes})

    def quote(
        self,
        body: QuoteBody | None = None,
        *,
        version: int | None = None,
        chain: bytes | None = None,
        certification: CertificationData | None = None,
        auth_data: bytes = AUTHENTICATION_DATA,
        pck_key: Key | None = None,
        attestation_key: Key | None = None,
        header: dict[str, Any] | None = None,
        qe: dict[str, Any] | None = None,
    ) -> Quote:
        """A quote about `body`, signed all the way; `header` and `qe` are fields of header and QE report."""
        body = body or self.body()
        is_td = isinstance(body, TdBody10)
        if version is None:
            version = 5 if body.BODY_TYPE >= 3 else 4 if is_td else 3
        key = attestation_key or new_key()
        numbers = key.public_key().public_numbers()
        point = numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
        report = self.qe_report(
            **{"report_data": hashlib.sha256(point + auth_data).digest() + bytes(32), **(qe or {})}
        )
        if certification is None:
            certification = CertificationData(CERTIFICATION_PCK_CHAIN, chain or self.pck_chain())
        fields: dict[str, Any] = {"version": version, "tee_type": TEE_TYPE_TDX if is_td else TEE_TYPE_SGX}
        unsigned = Quote(
            QuoteHeader(**{**fields, **(header or {})}),
            body,
            QuoteSignature(
                signature=bytes(64),
                attestation_key=point,
                qe_report=report,
                qe_report_signature=raw_signature(pck_key or self.pck_key, report.to_bytes()),
                qe_auth_data=auth_data,
                certification=certification,
            ),
        )
        return replace(
            unsigned,
            signature=replace(unsigned.signature, signature=raw_signature(key, unsigned.signed_bytes)),
        )

    def qe_report(self, **changes: Any) -> SgxReportBody:
        """The report of the platform's quoting enclave."""
        platform = self.platform
        fields: dict[str, Any] = {
            "cpusvn": platform.cpusvn,
            "flags": platform.qe_flags,
            "xfrm": platform.qe_xfrm,
            "mrenclave": platform.qe_mrenclave,
            "mrsigner": platform.qe_mrsigner,
            "isv_prod_id": platform.qe_isv_prod_id,
            "isv_svn": platform.qe_isv_svn,
        }
        return SgxReportBody(**{**fields, **changes})

    def pck_chain(self, pck: x509.Certificate | None = None) -> bytes:
        """PCK certificate, its authority and the root, as quotes carry them."""
        return pem(pck or self.pck, self.platform_ca, self.root)

    def pck_of(self, platform: EmulatedPlatform) -> x509.Certificate:
        """A PCK certificate for this platform's key that says it is `platform`."""
        extension = sgx_extension(platform, bytes(16), bytes(16))
        return pck_certificate(self.pck_key, extension, self.platform_ca, self.platform_ca_key)

    def tcb_info(self, edit: Edit | None = None, **members: Any) -> bytes:
        """The platform's TCB info with other members, or as `edit` leaves it; signed again."""
        return self._document(TCB_INFO, self.pki.signed.tcb_info, edit, members)

    def qe_identity(self, edit: Edit | None = None, **members: Any) -> bytes:
        """The QE identity with other members, or as `edit` leaves it; signed again."""
        return self._document(QE_IDENTITY, self.pki.signed.qe_identity, edit, members)

    def signed_document(self, name: str, inner: bytes, key: Key | None = None) -> bytes:
        """A document of any contents under the signature of TCB signing, or of `key`."""
        signature = raw_signature(key or self.tcb_signing_key, inner).hex().encode()
        return b'{"%s":%s,"signature":"%s"}' % (name.encode(), inner, signature)

    def _document(self, name: str, document: bytes, edit: Edit | None, members: dict[str, Any]) -> bytes:
        value = json.loads(SignedJson.parse(document, name).body)
        value.update(members)
        if edit is not None:
            edit(value)
        return self.signed_document(name, json.dumps(value, separators=(",", ":")).encode())

    def root_crl(self, issued: datetime | None = None, **options: Any) -> bytes:
        """A revocation list of the root."""
        return revocations(self.root, self.root_key, issued or self.now - timedelta(days=1), **options)

    def pck_crl(self, issued: datetime | None = None, **options: Any) -> bytes:
        """A revocation list of the authority that issued the PCK certificate."""
        return revocations(
            self.platform_ca, self.platform_ca_key, issued or self.now - timedelta(days=1), **options
        )


def stamp(time: datetime) -> str:
    """A time as Intel's documents write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
