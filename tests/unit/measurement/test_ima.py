from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.abi.ima_log import ImaEntry
from tdxstack.errors import MalformedError
from tdxstack.measurement.ima import describe_ima, extend_rtmrs, replay_ima

ZERO = (bytes(48),) * 4


def data(*fields: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(field)) + field for field in fields)


NG = data(b"sha256:\0" + b"f" * 32, b"/bin/sh\0")
ENTRY = ImaEntry(10, hashlib.sha1(NG).digest(), "ima-ng", NG)
VIOLATION = ImaEntry(10, bytes(20), "ima-ng", NG)


def sha1(data: bytes) -> bytes:
    return hashlib.sha1(data).digest()


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def test_nothing() -> None:
    assert replay_ima([], "sha1").registers == {}
    assert replay_ima([], "sha1").entries == 0


def test_banks() -> None:
    done = replay_ima([ENTRY, VIOLATION], "sha1")
    assert (done.entries, done.mismatches) == (2, ())
    assert done.registers == {10: sha1(sha1(bytes(20) + sha1(NG)) + b"\xff" * 20)}
    assert replay_ima([ENTRY, VIOLATION], "sha256").registers == {
        10: sha256(sha256(bytes(32) + sha256(NG)) + b"\xff" * 32)
    }


def test_digest_that_is_not_of_the_data_is_told_and_extended_as_logged() -> None:
    forged = ImaEntry(10, b"x" * 20, "ima-ng", NG)
    done = replay_ima([ENTRY, forged], "sha1")
    assert done.mismatches == (1,)
    assert done.registers == {10: sha1(sha1(bytes(20) + sha1(NG)) + b"x" * 20)}
    assert len(replay_ima([forged] * 20, "sha1").mismatches) == 10


@pytest.mark.parametrize(("pcr", "rtmr"), [(0, 0), (1, 1), (2, 2), (3, 3), (10, 2)])
def test_rtmrs(pcr: int, rtmr: int) -> None:
    digest = hashlib.sha384(NG).digest()
    extended = hashlib.sha384(bytes(48) + digest).digest()
    expected = tuple(extended if index == rtmr else bytes(48) for index in range(4))
    for logged in (digest, sha1(NG)):
        assert extend_rtmrs(ZERO, [ImaEntry(pcr, logged, "ima-ng", NG)]) == expected
    violation = extend_rtmrs(ZERO, [ImaEntry(pcr, bytes(48), "ima-ng", NG)])
    assert violation[rtmr] == hashlib.sha384(bytes(48) + b"\xff" * 48).digest()


def test_other_pcrs_are_no_rtmrs() -> None:
    with pytest.raises(MalformedError, match="entry 1 is of PCR 4"):
        extend_rtmrs(ZERO, [ENTRY, ImaEntry(4, bytes(20), "ima-ng", NG)])


@pytest.mark.parametrize(
    ("template", "body", "words"),
    [
        ("ima-ng", NG, "/bin/sh, sha256 " + "66" * 32),
        ("ima", b"f" * 20 + b"\7\0\0\0/bin/sh", "/bin/sh, sha1 " + "66" * 20),
        (
            "ima-sig",
            data(b"sha256:\0f", b"/bin/sh\0", b"\3\2\4keyI\0\1s"),
            "/bin/sh, sha256 66, signed by key 6b657949",
        ),
        (
            "ima-sig",
            data(b"sha256:\0f", b"/bin/sh\0", b"\4\4d"),
            "/bin/sh, sha256 66, extended attribute of type 4",
        ),
        ("ima-sigv2", data(b"verity:sha256:\0f", b"a\n\0", b"\6\2\4keyI\0\1s"), None),
        ("ima-buf", data(b"sha256:\0f", b".builtin_trusted_keys\0", b"der"), None),
        (
            "ima-modsig",
            data(b"sha256:\0f", b"m.ko\0", b"", b"sha512:\0d", b"pkcs7"),
            "m.ko, sha256 66, signature appended to the file",
        ),
        ("unknown", b"abc", "unknown: 616263 (3 bytes)"),
    ],
)
def test_words(template: str, body: bytes, words: str | None) -> None:
    said = describe_ima(ImaEntry(10, b"x" * 20, template, body))
    assert said.isprintable()
    assert words is None or said == words


def test_violation_in_words() -> None:
    assert describe_ima(VIOLATION) == "/bin/sh, changed while it was measured (violation)"


@given(st.sampled_from(["ima", "ima-ng", "ima-sig", "ima-modsig", "evm-sig"]), st.binary(max_size=100))
def test_any_entry_gives_one_printable_line(template: str, body: bytes) -> None:
    assert describe_ima(ImaEntry(10, b"x" * 20, template, body)).isprintable()
