from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tdxstack.errors import MalformedError
from tdxstack.quoting.authority import new_key
from tdxstack.quoting.pki import Pki
from tdxstack.verification.certificates import (
    INTEL_SGX_ROOT_CA,
    Certificate,
    Chain,
    TrustAnchor,
    is_marked_emulated,
    read_chain,
)
from tdxstack.verification.chains import RevocationList, chain_problems
from tdxstack.verification.signatures import PublicKey, SignatureMemory, der_signature
from tests.recorded_boot import NOW, Keys
from tests.synthetic.certificates import pem, remade


def parsed(certificate: x509.Certificate) -> Certificate:
    return Certificate.parse(certificate.public_bytes(Encoding.DER))


def chain(*certificates: x509.Certificate) -> Chain:
    return tuple(map(parsed, certificates))


def problems_of(*certificates: x509.Certificate) -> list[str]:
    return chain_problems(chain(*certificates), SignatureMemory())


def names(found: Chain) -> list[str]:
    return [certificate.name for certificate in found]


def test_chains_are_ordered_from_leaf_to_root(keys: Keys) -> None:
    whole = (keys.pck, keys.platform_ca, keys.root)
    for order in (whole, whole[::-1], (keys.platform_ca, keys.root, keys.pck)):
        assert names(read_chain(pem(*order))) == names(chain(*whole))


def test_text_around_the_certificates_and_nul_bytes_do_not_matter(keys: Keys) -> None:
    text = b"# chain\n" + pem(keys.pck) + b"\r\nissuer:\n" + pem(keys.platform_ca).rstrip() + b"\0\0"
    assert names(read_chain(text)) == names(chain(keys.pck, keys.platform_ca))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"-----END CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----",
        bytes(99),
    ],
)
def test_other_text_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        read_chain(data)
    assert caught.value.hint


def test_long_chains_are_malformed(keys: Keys) -> None:
    with pytest.raises(MalformedError, match="more than 4"):
        read_chain(pem(keys.pck) * 5)
    with pytest.raises(MalformedError, match="more than 16384"):
        read_chain(pem(keys.pck) * 100_000)


def test_a_sound_chain_has_no_problems(keys: Keys) -> None:
    assert problems_of(keys.pck, keys.platform_ca, keys.root) == []
    assert problems_of(keys.root) == []


def test_a_chain_must_reach_a_root(keys: Keys) -> None:
    problems = problems_of(keys.pck, keys.platform_ca)
    assert len(problems) == 1
    assert "names the issuer" in problems[0]


def test_a_link_must_be_signed_by_the_next(keys: Keys) -> None:
    for links in (
        (remade(keys.pck, new_key()), keys.platform_ca, keys.root),
        (keys.pck, remade(keys.platform_ca, new_key()), keys.root),
        (keys.pck, keys.platform_ca, remade(keys.root, new_key())),
    ):
        problems = problems_of(*links)
        assert len(problems) == 1
        assert problems[0].startswith("the signature on")


def test_a_leaf_cannot_issue(keys: Keys) -> None:
    below = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SGX PCK Certificate")]))
        .issuer_name(keys.pck.subject)
        .public_key(new_key().public_key())
        .serial_number(1)
        .not_valid_before(keys.pck.not_valid_before_utc)
        .not_valid_after(keys.pck.not_valid_after_utc)
        .sign(keys.pck_key, hashes.SHA256())
    )
    problems = problems_of(below, keys.pck, keys.platform_ca, keys.root)
    assert any("is no certificate authority" in problem for problem in problems)
    assert any("authorities below it" in problem for problem in problems)


def named(
    name: str, key: ec.EllipticCurvePrivateKey, *extensions: tuple[x509.ExtensionType, bool]
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, hashes.SHA256())


def test_unknown_critical_extensions_are_a_problem() -> None:
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    assert problems_of(named("root", new_key(), (extension, False))) == []
    assert problems_of(named("root", new_key(), (extension, True))) == [
        "'root' (serial number 1) has the unknown critical extension 1.2.3.4"
    ]


@pytest.mark.parametrize("hash_algorithm", [hashes.SHA384(), hashes.SHA512()])
def test_other_hashes_are_a_problem(hash_algorithm: hashes.SHA384 | hashes.SHA512) -> None:
    key = new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
    root = (x509.CertificateBuilder(subject, subject, key.public_key(), 1, NOW, NOW)).sign(
        key, hash_algorithm
    )
    assert problems_of(root) == [
        "the signature on 'root' (serial number 1) is not that of 'root' (serial number 1)"
    ]


def test_other_keys_are_malformed() -> None:
    other = named("p384", ec.generate_private_key(ec.SECP384R1()))
    with pytest.raises(MalformedError, match="P-256"):
        parsed(other)
    key = rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rsa")])
    certificate = x509.CertificateBuilder(subject, subject, key.public_key(), 1, NOW, NOW).sign(
        key, hashes.SHA256()
    )
    with pytest.raises(MalformedError, match="RSA"):
        TrustAnchor.from_certificate(certificate.public_bytes(Encoding.PEM))


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_negative_serial_numbers_are_malformed(keys: Keys) -> None:
    """No revocation list can hold them; asked for one, the library raises."""
    der = keys.pck.public_bytes(Encoding.DER)
    size = (keys.pck.serial_number.bit_length() + 8) // 8
    number = keys.pck.serial_number.to_bytes(size, "big")
    assert der.count(number) == 1
    changed = der.replace(number, bytes((number[0] | 0x80,)) + number[1:])
    with pytest.raises(MalformedError, match="is not positive"):
        TrustAnchor.from_certificate(changed)


def test_an_anchor_from_a_certificate_knows_whether_it_is_emulated(keys: Keys) -> None:
    for encoding in (Encoding.PEM, Encoding.DER):
        anchor = TrustAnchor.from_certificate(keys.root.public_bytes(encoding))
        assert anchor.emulated
        assert anchor.public_key().der == parsed(keys.root).key.der
    assert not TrustAnchor.from_certificate(pem(keys.platform_ca)).emulated
    assert not INTEL_SGX_ROOT_CA.emulated
    INTEL_SGX_ROOT_CA.public_key()


def test_intels_root_has_signed_itself() -> None:
    anchor = INTEL_SGX_ROOT_CA
    assert anchor.public_key().signed_digest(anchor.signature, anchor.signed_digest)


@pytest.mark.parametrize("data", [b"", b"x", b"\x30\x03\x02\x01\x00", b"-----BEGIN CERTIFICATE-----"])
def test_a_broken_anchor_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        TrustAnchor.from_certificate(data)
    assert caught.value.hint


def test_only_the_root_is_marked(keys: Keys) -> None:
    assert is_marked_emulated(keys.root)
    assert not is_marked_emulated(keys.platform_ca)
    assert not is_marked_emulated(keys.pck)


def test_certificates_without_sgx_extension_are_no_pck_certificates(keys: Keys) -> None:
    assert parsed(keys.pck).sgx_extension().fmspc[:1] == b"\xfe"
    with pytest.raises(MalformedError, match="no SGX extension"):
        parsed(keys.root).sgx_extension()


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), b"\xff" * 64, bytes(65)])
def test_nonsense_is_not_a_signature(keys: Keys, signature: bytes) -> None:
    assert not parsed(keys.root).key.signed(der_signature(signature), b"data")


def test_points_off_the_curve_are_malformed() -> None:
    for point in (bytes(64), b"\xff" * 64, bytes(10)):
        with pytest.raises(MalformedError):
            PublicKey.of_point(point, "attestation key")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, 5000), st.integers(1, 255))
def test_any_change_of_a_chain_or_list_is_handled(pki: Pki, offset: int, change: int) -> None:
    """Changed in DER, so that the change reaches the certificate and not its armour."""
    der = bytearray(pki.pck.public_bytes(Encoding.DER))
    der[offset % len(der)] ^= change
    crl = bytearray(pki.signed.pck_crl)
    crl[offset % len(crl)] ^= change
    try:
        TrustAnchor.from_certificate(bytes(der))
    except MalformedError as error:
        assert error.hint
    try:
        RevocationList.parse(bytes(crl))
    except MalformedError as error:
        assert error.hint
