"""Signatures made by another library, whole and changed."""

from __future__ import annotations

import contextlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key, pkcs7
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import MalformedError
from tdxstack.firmware.authenticode import Signature
from tdxstack.firmware.keys import OwnKeys, open_own_keys

CONTENT = b"what is signed"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> OwnKeys:
    return open_own_keys(tmp_path_factory.mktemp("data") / "secure-boot")


def signature(
    keys: OwnKeys, *options: pkcs7.PKCS7Options, algorithm: hashes.SHA256 | hashes.SHA384 | None = None
) -> bytes:
    key = load_pem_private_key(keys.key_file("db").read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    builder = pkcs7.PKCS7SignatureBuilder().set_data(CONTENT)
    builder = builder.add_signer(keys.certificates["db"], key, algorithm or hashes.SHA256())
    return builder.sign(Encoding.DER, [pkcs7.PKCS7Options.Binary, *options])


@pytest.mark.parametrize("options", [(), (pkcs7.PKCS7Options.NoAttributes,)], ids=["attributes", "none"])
@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA384()], ids=["sha256", "sha384"])
def test_a_sound_signature(
    keys: OwnKeys, options: tuple[pkcs7.PKCS7Options, ...], algorithm: hashes.SHA256 | hashes.SHA384
) -> None:
    found = Signature.parse(signature(keys, *options, algorithm=algorithm) + bytes(7))
    assert found == Signature(CONTENT, [keys.certificates["db"]], True)


@pytest.mark.parametrize("options", [(), (pkcs7.PKCS7Options.NoAttributes,)], ids=["attributes", "none"])
def test_other_content_does_not_hold(keys: OwnKeys, options: tuple[pkcs7.PKCS7Options, ...]) -> None:
    changed = signature(keys, *options).replace(CONTENT, CONTENT[::-1])
    found = Signature.parse(changed)
    assert (found.content, found.holds) == (CONTENT[::-1], False)


def test_a_signature_by_another_algorithm_does_not_hold(keys: OwnKeys) -> None:
    sha256 = bytes.fromhex("0609608648016503040201")
    assert not Signature.parse(signature(keys).replace(sha256, sha256[:-1] + b"\x09")).holds


def test_what_brings_no_certificate_has_no_signer(keys: OwnKeys) -> None:
    with pytest.raises(MalformedError, match="brings no certificates"):
        Signature.parse(signature(keys, pkcs7.PKCS7Options.NoCerts))


@pytest.mark.parametrize(("more", "refused"), [(31, False), (32, True)])
def test_certificates_that_come_along_are_counted(keys: OwnKeys, more: int, refused: bool) -> None:
    key = load_pem_private_key(keys.key_file("db").read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    builder = pkcs7.PKCS7SignatureBuilder().set_data(CONTENT)
    builder = builder.add_signer(keys.certificates["db"], key, hashes.SHA256())
    for _ in range(more):
        builder = builder.add_certificate(keys.certificates["KEK"])
    data = builder.sign(Encoding.DER, [pkcs7.PKCS7Options.Binary])
    with pytest.raises(MalformedError, match="33 certificates") if refused else contextlib.nullcontext():
        assert Signature.parse(data).holds


@pytest.mark.parametrize("data", [b"", b"0", b"\x30\x00", b"\x30\x03\x02\x01\x00", b"\xff" * 64])
def test_what_is_no_signature(data: bytes) -> None:
    with pytest.raises(MalformedError):
        Signature.parse(data)


@given(st.data())
def test_no_change_makes_it_hold_for_other_content(keys: OwnKeys, data: st.DataObject) -> None:
    changed = bytearray(signature(keys))
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedError):
        found = Signature.parse(bytes(changed))
        assert not found.holds or found.content == CONTENT
