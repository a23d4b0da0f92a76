from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tdxstack.errors import MalformedError
from tdxstack.quoting.authority import new_key, raw_signature
from tdxstack.verification import signatures
from tdxstack.verification.signatures import PublicKey, SignatureMemory, der_signature


def test_a_key_is_the_same_however_it_is_given() -> None:
    key = new_key()
    numbers = key.public_key().public_numbers()
    point = numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    signature = der_signature(raw_signature(key, b"data"))
    for public in (
        PublicKey(key.public_key(), "k"),
        PublicKey.of_point(point, "k"),
        PublicKey.of_der(der, "k"),
    ):
        assert public.der == der
        assert public.signed(signature, b"data")
        assert not public.signed(signature, b"other")


@pytest.mark.parametrize("der", [b"", b"\x30\x00", bytes(91)])
def test_other_bytes_are_no_key(der: bytes) -> None:
    with pytest.raises(MalformedError, match="thing"):
        PublicKey.of_der(der, "thing")


def test_memory_remembers_only_what_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "_MAX_REMEMBERED", 3)
    key, other = new_key(), new_key()
    public = PublicKey(key.public_key(), "k")
    signature = der_signature(raw_signature(key, b"data"))
    memory = SignatureMemory()
    for _ in range(3):
        assert memory.signed(public, signature, b"data")
        assert not memory.signed(public, signature, b"other")
        assert not memory.signed(PublicKey(other.public_key(), "k"), signature, b"data")
        assert not memory.signed(public, signature[:-1] + bytes((signature[-1] ^ 1,)), b"data")
    for number in range(10):
        data = bytes((number,))
        assert memory.signed(public, der_signature(raw_signature(key, data)), data)
    assert len(memory._good) <= 3
