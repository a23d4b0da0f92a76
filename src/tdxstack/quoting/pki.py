"""The emulated platform's root of trust: made on first use, kept where only its owner can read it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tdxstack.collateral import bundle
from tdxstack.collateral.bundle import Collateral
from tdxstack.errors import MalformedError, UnavailableError
from tdxstack.files import lock, make_private, new_directory, refuse_others, write_atomically
from tdxstack.quoting import authority, tcb
from tdxstack.quoting.authority import Key
from tdxstack.quoting.pck import sgx_extension
from tdxstack.quoting.platform import EmulatedPlatform
from tdxstack.verification.certificates import is_marked_emulated

VALIDITY: Final = timedelta(days=30)
"""Of CRLs, TCB info and QE identity, as with Intel's PCS."""

RENEWAL_MARGIN: Final = timedelta(days=7)
"""What is left of the validity when they are signed again."""

_CLOCK_SLACK = timedelta(hours=1)
"""They are issued this long ago, so that a clock that is set back a little does not invalidate them."""

REPORT_MAC_KEY_SIZE: Final = 32
_PPID_SIZE = 16

_REPORT_MAC_KEY = "report-mac.key"
_PLATFORM = "platform.json"
_ROOT, _PLATFORM_CA, _PCK, _TCB_SIGNING = "root-ca", "pck-platform-ca", "pck", "tcb-signing"
_ROOT_CRL, _PCK_CRL = "root-ca.crl.der", "pck.crl.der"
_TCB_INFO, _QE_IDENTITY = "tcb-info.json", "qe-identity.json"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class SignedCollateral:
    """The part of the collateral that expires: two CRLs in DER, and two signed JSON documents."""

    root_crl: bytes
    pck_crl: bytes
    tcb_info: bytes
    qe_identity: bytes
    issued: datetime
    next_update: datetime

    def is_current(self, now: datetime) -> bool:
        """Whether it is valid at `now` and stays so for the renewal margin."""
        return self.issued <= now < self.next_update - RENEWAL_MARGIN


@dataclass(frozen=True, slots=True)
class Pki:
    """The emulated platform: its identity, its certificates and the keys that its quoting enclave uses."""

    directory: Path
    platform: EmulatedPlatform
    root: x509.Certificate
    platform_ca: x509.Certificate
    pck: x509.Certificate
    tcb_signing: x509.Certificate
    pck_key: Key
    report_mac_key: bytes
    signed: SignedCollateral

    @property
    def trust_anchor(self) -> x509.Certificate:
        """The root certificate. It carries the marker of emulated evidence."""
        return self.root

    @property
    def trust_anchor_pem(self) -> bytes:
        """The same in PEM, as a verifier is given it."""
        return _pem(self.root)

    @property
    def report_mac_key_file(self) -> Path:
        """32 raw bytes, readable by the owner only, for QEMU's `-object secret,file=`."""
        return self.directory / _REPORT_MAC_KEY

    @property
    def pck_chain(self) -> bytes:
        """PEM of PCK certificate, platform CA and root, as quotes carry it."""
        return _pem(self.pck, self.platform_ca, self.root)

    def collateral(self) -> Collateral:
        """What a verifier of this platform's quotes needs besides the quote and the trust anchor."""
        return Collateral(
            pck_crl_issuer_chain=_pem(self.platform_ca, self.root),
            root_ca_crl=self.signed.root_crl,
            pck_crl=self.signed.pck_crl,
            tcb_info_issuer_chain=_pem(self.tcb_signing, self.root),
            tcb_info=self.signed.tcb_info,
            qe_identity_issuer_chain=_pem(self.tcb_signing, self.root),
            qe_identity=self.signed.qe_identity,
        )


def open_pki(directory: Path, now: datetime) -> Pki:
    """The emulated platform kept in `directory`, made if there is none; its collateral is valid at `now`.

    Collateral that is near its end is signed again with the same keys. Any number of processes may do this
    at once. Raises `UnavailableError` where the directory is damaged or open to others, and changes nothing.
    """
    now = now.astimezone(UTC).replace(microsecond=0)
    try:
        make_private(directory.parent)
        with lock(directory.with_name(f".{directory.name}.lock")):
            if not directory.exists() or not any(directory.iterdir()):
                with new_directory(directory) as unfinished:
                    _write_authorities(unfinished, EmulatedPlatform())
                    _sign(unfinished, EmulatedPlatform(), now)
            pki = _load(directory)
            if pki.signed.is_current(now):
                return pki
            _sign(directory, pki.platform, now)
            return _load(directory)
    except OSError as error:
        raise UnavailableError(
            f"the emulated platform cannot be kept in {directory}: {error.strerror}: {error.filename}",
            hint="make that place writable for you, or choose another (XDG_DATA_HOME)",
        ) from None


def _write_authorities(directory: Path, platform: EmulatedPlatform) -> None:
    keys = {name: authority.new_key() for name in (_ROOT, _PLATFORM_CA, _PCK, _TCB_SIGNING)}
    root = authority.root_certificate(keys[_ROOT])
    platform_ca = authority.platform_ca_certificate(keys[_PLATFORM_CA], root, keys[_ROOT])
    extension = sgx_extension(platform, secrets.token_bytes(_PPID_SIZE), secrets.token_bytes(_PPID_SIZE))
    certificates = {
        _ROOT: root,
        _PLATFORM_CA: platform_ca,
        _PCK: authority.pck_certificate(keys[_PCK], extension, platform_ca, keys[_PLATFORM_CA]),
        _TCB_SIGNING: authority.tcb_signing_certificate(keys[_TCB_SIGNING], root, keys[_ROOT]),
    }
    for name, certificate in certificates.items():
        write_atomically(directory / f"{name}.pem", _pem(certificate))
    for name, key in keys.items():
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_atomically(directory / f"{name}.key", pem, mode=0o600)
    write_atomically(directory / _REPORT_MAC_KEY, secrets.token_bytes(REPORT_MAC_KEY_SIZE), mode=0o600)
    write_atomically(directory / _PLATFORM, platform.to_json())


def _sign(directory: Path, platform: EmulatedPlatform, now: datetime) -> None:
    """Write fresh CRLs, TCB info and QE identity. Each file is valid by itself, whatever the others are."""
    issued = now - _CLOCK_SLACK
    root, platform_ca = _certificate(directory, _ROOT), _certificate(directory, _PLATFORM_CA)
    number = int(issued.timestamp())  # grows with time, as CRL numbers must
    for file, issuer, key in (
        (_ROOT_CRL, root, _key(directory, _ROOT)),
        (_PCK_CRL, platform_ca, _key(directory, _PLATFORM_CA)),
    ):
        crl = authority.empty_crl(issuer, key, number=number, issued=issued, valid_for=VALIDITY)
        write_atomically(directory / file, crl.public_bytes(Encoding.DER))
    key = _key(directory, _TCB_SIGNING)
    for file, name, inner in (
        (_TCB_INFO, bundle.TCB_INFO, tcb.tcb_info(platform, issued, VALIDITY)),
        (_QE_IDENTITY, bundle.QE_IDENTITY, tcb.qe_identity(platform, issued, VALIDITY)),
    ):
        write_atomically(directory / file, tcb.signed_document(name, inner, key))


def _load(directory: Path) -> Pki:
    """Read and check everything: a PKI that is not whole is worse than none."""
    refuse_others(directory, "the emulated platform")
    root, platform_ca = _certificate(directory, _ROOT), _certificate(directory, _PLATFORM_CA)
    pck, tcb_signing = _certificate(directory, _PCK), _certificate(directory, _TCB_SIGNING)
    for name, certificate, issuer in (
        (_ROOT, root, root),
        (_PLATFORM_CA, platform_ca, root),
        (_PCK, pck, platform_ca),
        (_TCB_SIGNING, tcb_signing, root),
    ):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (InvalidSignature, ValueError, TypeError):
            raise _damaged(directory / f"{name}.pem", "was not issued by the certificate above it") from None
        if _key(directory, name).public_key() != certificate.public_key():
            raise _damaged(directory / f"{name}.key", "does not belong to its certificate")
    if not is_marked_emulated(root):
        raise _damaged(directory / f"{_ROOT}.pem", "does not carry the mark of emulated platforms")
    mac_key = _read(directory / _REPORT_MAC_KEY)
    if len(mac_key) != REPORT_MAC_KEY_SIZE:
        raise _damaged(directory / _REPORT_MAC_KEY, f"has {len(mac_key)} bytes, not {REPORT_MAC_KEY_SIZE}")
    platform = _parsed(directory / _PLATFORM, EmulatedPlatform.from_json)
    return Pki(
        directory=directory,
        platform=platform,
        root=root,
        platform_ca=platform_ca,
        pck=pck,
        tcb_signing=tcb_signing,
        pck_key=_key(directory, _PCK),
        report_mac_key=mac_key,
        signed=_load_signed(directory, root, platform_ca, tcb_signing),
    )


def _load_signed(
    directory: Path, root: x509.Certificate, platform_ca: x509.Certificate, tcb_signing: x509.Certificate
) -> SignedCollateral:
    starts, ends = [], []
    for file, issuer in ((_ROOT_CRL, root), (_PCK_CRL, platform_ca)):
        crl = _parsed(directory / file, x509.load_der_x509_crl)
        if not crl.is_signature_valid(_public(issuer)) or crl.next_update_utc is None:
            raise _damaged(directory / file, "does not carry its issuer's signature")
        starts.append(crl.last_update_utc)
        ends.append(crl.next_update_utc)
    for file, name in ((_TCB_INFO, bundle.TCB_INFO), (_QE_IDENTITY, bundle.QE_IDENTITY)):
        opened = partial(tcb.open_document, name, key=_public(tcb_signing))
        document = _parsed(directory / file, opened)
        starts.append(datetime.fromisoformat(document["issueDate"]))
        ends.append(datetime.fromisoformat(document["nextUpdate"]))
    return SignedCollateral(
        root_crl=_read(directory / _ROOT_CRL),
        pck_crl=_read(directory / _PCK_CRL),
        tcb_info=_read(directory / _TCB_INFO),
        qe_identity=_read(directory / _QE_IDENTITY),
        issued=max(starts),
        next_update=min(ends),
    )


def _certificate(directory: Path, name: str) -> x509.Certificate:
    return _parsed(directory / f"{name}.pem", x509.load_pem_x509_certificate)


def _key(directory: Path, name: str) -> Key:
    path = directory / f"{name}.key"
    key = _parsed(path, lambda pem: load_pem_private_key(pem, password=None))
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _damaged(path, "is not a P-256 key")
    return key


def _public(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey), "the private key was found to be P-256 and to match"
    return key


def _parsed(path: Path, parse: Callable[[bytes], _T]) -> _T:
    try:
        return parse(_read(path))
    except (ValueError, TypeError, MalformedError) as error:
        raise _damaged(path, f"cannot be read: {error}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from None


def _damaged(path: Path, what: str) -> UnavailableError:
    return UnavailableError(
        f"the emulated platform is damaged: {path}: {what}",
        hint=f"restore {path.parent} from a copy, or move it away: a new platform and root are then made",
    )


def _pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
