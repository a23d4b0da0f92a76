"""Which key of a database lets a program start."""

from __future__ import annotations

import datetime
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import NameOID

from tdxstack.errors import MalformedError
from tdxstack.firmware.signatures import Entry, authority, certificate_list, signers
from tdxstack.measurement.pe import Image
from tests.unit.measurement import pe_images as made

OWNER = UUID("12345678-1234-1234-1234-123456789abc")
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
Signer = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def signer(name: str, issuer: Signer | None = None) -> Signer:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(START)
        .not_valid_after(START + datetime.timedelta(days=1))
        .sign(issuer[1] if issuer else key, hashes.SHA256())
    )
    return certificate, key


def der(one: Signer) -> bytes:
    return one[0].public_bytes(Encoding.DER)


def database(*trusted: Signer) -> bytes:
    return b"".join(certificate_list(OWNER, der(one)) for one in trusted)


def signed(*signers: Signer, digest: bytes | None = None) -> Image:
    """A program with a signature of each signer over its own digest, or over another one."""
    unsigned = made.program({".text": b"program"})
    own = made.digest(unsigned, algorithm="sha256")
    signatures = tuple(
        pkcs7.PKCS7SignatureBuilder()
        .set_data(digest or own)
        .add_signer(certificate, key, hashes.SHA256())
        .sign(Encoding.DER, [pkcs7.PKCS7Options.Binary])
        for certificate, key in signers
    )
    return Image.parse(made.program({".text": b"program"}, signatures=signatures))


ROOT = signer("root")
LEAF = signer("leaf", ROOT)
OTHER = signer("other")


def test_the_key_that_issued_the_signer_lets_it_start() -> None:
    assert authority(signed(LEAF), database(OTHER, ROOT)) == Entry(OWNER, der(ROOT))
    assert authority(signed(LEAF), database(LEAF)) == Entry(OWNER, der(LEAF))


def test_the_first_signature_that_a_key_verifies_counts() -> None:
    assert authority(signed(LEAF, OTHER), database(OTHER, ROOT)) == Entry(OWNER, der(ROOT))
    assert authority(signed(LEAF, OTHER), database(OTHER)) == Entry(OWNER, der(OTHER))


def test_nobody_lets_start_what_is_unsigned_or_signed_for_something_else() -> None:
    assert authority(signed(), database(ROOT)) is None
    assert authority(signed(LEAF), database(OTHER)) is None
    assert authority(signed(LEAF, digest=b"x" * 32), database(ROOT)) is None


def test_a_name_alone_is_no_issuer() -> None:
    assert authority(signed(LEAF), database(signer("root"))) is None


def test_a_digest_in_the_database_lets_it_start_and_in_dbx_forbids_it() -> None:
    image = signed(LEAF)
    entry = Entry(OWNER, image.digest("sha256"))
    hashes_list = UUID("c1c41626-504c-4092-aca9-41f936934328").bytes_le
    hashes_list += (28 + 48).to_bytes(4, "little") + bytes(4) + (48).to_bytes(4, "little") + entry.to_bytes()
    assert authority(signed(), hashes_list) == entry
    assert authority(image, database(ROOT), hashes_list) is None
    assert authority(image, database(ROOT), database(ROOT)) is None


def test_a_broken_database_is_named() -> None:
    with pytest.raises(MalformedError, match="signature list"):
        authority(signed(LEAF), database(ROOT)[:-5])


def test_an_entry_that_is_no_certificate_is_passed_over() -> None:
    ours = signer("ours")
    lists = certificate_list(OWNER, b"\x30\x03no certificate") + database(ours)
    assert authority(signed(ours), lists) == Entry(OWNER, der(ours))


def test_a_signature_that_does_not_hold_lets_nothing_start() -> None:
    image = signed(LEAF)
    [signature] = image.signatures()
    at = image.data.index(signature) + len(signature.rstrip(b"\0")) - 5
    changed = bytearray(image.data)
    changed[at] ^= 1
    assert authority(image, database(ROOT)) is not None
    assert authority(Image.parse(bytes(changed)), database(ROOT)) is None


def test_a_revoked_signer_forbids_what_its_issuer_would_let_start() -> None:
    assert authority(signed(LEAF), database(ROOT), database(LEAF)) is None
    assert authority(signed(LEAF), database(LEAF), database(ROOT)) is None
    assert authority(signed(OTHER, LEAF), database(OTHER), database(LEAF)) is None
    assert authority(signed(LEAF), database(ROOT), database(OTHER)) == Entry(OWNER, der(ROOT))


def test_signers_are_named_in_order() -> None:
    first, second = signer("first"), signer("second")
    assert signers(signed(first, second)) == [der(first), der(second)]
    assert signers(signed()) == []
