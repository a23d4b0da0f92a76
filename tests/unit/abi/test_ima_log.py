from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.abi.ima_log import ImaEntry, is_binary, is_text, parse_ima_log
from tdxstack.errors import MalformedError

FILE = hashlib.sha256(b"file").digest()
PATH = b"/usr/lib/a file.so"


def field(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def fields(*parts: bytes) -> bytes:
    return b"".join(map(field, parts))


def packed(template: bytes, data: bytes, pcr: int = 10, algorithm: str = "sha1") -> bytes:
    """An entry packed by hand, as the kernel writes it."""
    digest = hashlib.new(algorithm, data).digest()
    return struct.pack("<I", pcr) + digest + field(template) + field(data)


NG = fields(b"sha256:\0" + FILE, PATH + b"\0")
SIG = fields(b"sha256:\0" + FILE, PATH + b"\0", b"\3\2\4" + b"keyI" + b"\0\2ss")
UNSIGNED = fields(b"sha256:\0" + FILE, PATH + b"\0", b"")
V2 = fields(b"verity:sha256:\0" + FILE, PATH + b"\0", b"\6\2")
MODSIG = fields(b"sha256:\0" + FILE, PATH + b"\0", b"", b"sha512:\0" + b"d" * 64, b"pkcs7")
OLD = b"f" * 20 + field(PATH)

TEXTS = {
    "ima-ng": (NG, b"sha256:%s /usr/lib/a file.so" % FILE.hex().encode()),
    "ima-sig": (SIG, b"sha256:%s /usr/lib/a file.so 0302046b65794900027373" % FILE.hex().encode()),
    "ima-sigv2": (V2, b"verity:sha256:%s /usr/lib/a file.so 0602" % FILE.hex().encode()),
    "ima-modsig": (
        MODSIG,
        b"sha256:%s /usr/lib/a file.so  sha512:%s %s"
        % (FILE.hex().encode(), (b"d" * 64).hex().encode(), b"pkcs7".hex().encode()),
    ),
    "d-ng|n-ng|sig": (UNSIGNED, b"sha256:%s /usr/lib/a file.so " % FILE.hex().encode()),
}


@pytest.mark.parametrize("template", TEXTS)
def test_both_forms_say_the_same(template: str) -> None:
    data, text = TEXTS[template]
    binary = packed(template.encode(), data)
    line = b"10 %s %s %s\n" % (hashlib.sha1(data).hexdigest().encode(), template.encode(), text)
    (entry,) = parse_ima_log(binary)
    assert entry == ImaEntry(10, hashlib.sha1(data).digest(), template, data)
    assert (is_binary(binary), is_text(binary)) == (True, False)
    assert (is_binary(line), is_text(line)) == (False, True)
    assert list(parse_ima_log(line * 2)) == [entry, entry]
    assert entry.to_bytes() == binary
    assert entry.fields()["n-ng"] == PATH + b"\0"


def test_signature_that_is_missing_with_its_space() -> None:
    line = b"10 %s ima-sig sha256:%s /bin/x" % (b"0" * 40, FILE.hex().encode())
    (entry,) = parse_ima_log(line)
    assert entry.fields() == {"d-ng": b"sha256:\0" + FILE, "n-ng": b"/bin/x\0", "sig": b""}
    assert entry.violation


def test_old_template() -> None:
    binary = struct.pack("<I", 10) + b"D" * 20 + field(b"ima") + OLD
    (entry,) = parse_ima_log(binary)
    assert entry.fields() == {"d": b"f" * 20, "n": PATH}
    assert entry.hashed() == b"f" * 20 + PATH.ljust(256, b"\0")
    assert entry.to_bytes() == binary
    line = b" 9 %s ima %s %s" % (b"44" * 20, b"66" * 20, PATH)
    assert list(parse_ima_log(line)) == [ImaEntry(9, b"D" * 20, "ima", OLD)]
    long = ImaEntry(10, b"D" * 20, "ima", b"f" * 20 + field(b"n" * 257))
    for form in (long.to_bytes(), line.replace(PATH, b"n" * 257)):
        with pytest.raises(MalformedError, match="a name of 257 bytes"):
            list(parse_ima_log(form))


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha384", "sha512"])
def test_digests_of_every_bank(algorithm: str) -> None:
    binary = packed(b"ima-ng", NG, pcr=2, algorithm=algorithm)
    (entry,) = parse_ima_log(binary)
    assert entry.digest == hashlib.new(algorithm, NG).digest()
    assert [one.to_bytes() for one in parse_ima_log(binary * 3)] == [binary] * 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no template name at offset 24"),
        (b"\xff" * 100, "no template name at offset 24"),
        (packed(b"ima-ng", NG)[:-1], "template data needs .* at offset 38"),
        (packed(b"ima-ng", NG)[:35], "entry at offset 0 is cut short"),
        (packed(b"ima-ng", NG) + b"\n", f"entry at offset {len(packed(b'ima-ng', NG))} is cut short"),
        (
            packed(b"ima-ng", NG) + packed(b"ima ng", NG),
            f"no template name of 6 bytes at offset {len(packed(b'ima-ng', NG)) + 28}",
        ),
        (packed(b"ima-ng", NG) + packed(b"", NG), "no template name of 0 bytes"),
        (struct.pack("<I", 10) + b"D" * 20 + field(b"ima") + b"f" * 22, "cut short"),
        (b"10 %s ima-ng sha256:0g /a\n" % (b"0" * 40), "in place of hexadecimal digits"),
        (b"10 %s evm-sig sha256:00 /a\n" % (b"0" * 40), "cannot be read from the text form"),
        (b"10 %s own sha256:00 /a\n" % (b"0" * 40), "cannot be read from the text form"),
        (b"10 %s ima-ng sha256:00 /a\n\n" % (b"0" * 40), "line at offset 64 is not"),
        (b"10 %s ima-ng sha256:00 %s\n" % (b"0" * 40, b"a" * (1 << 20)), "bytes long"),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message) as caught:
        list(parse_ima_log(data))
    assert caught.value.hint


@pytest.mark.parametrize("data", [NG[:-1], NG + b"x", b""])
def test_data_that_does_not_fit_the_template(data: bytes) -> None:
    with pytest.raises(MalformedError):
        ImaEntry(10, bytes(20), "ima-ng", data).fields()


@given(
    st.lists(
        st.tuples(
            st.integers(0, 23),
            st.sampled_from(["ima-ng", "ima-sig", "d-ng|n-ng"]),
            st.binary(max_size=60),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_round_trip(parts: list[tuple[int, str, bytes]]) -> None:
    entries = [ImaEntry(pcr, b"D" * 20, template, data) for pcr, template, data in parts]
    assert list(parse_ima_log(b"".join(entry.to_bytes() for entry in entries))) == entries


@given(
    st.binary(max_size=200), st.sampled_from([b"", packed(b"ima-ng", NG), b"10 " + b"0" * 40 + b" ima-sig "])
)
def test_any_input(data: bytes, start: bytes) -> None:
    try:
        entries = list(parse_ima_log(start + data))
    except MalformedError as error:
        assert error.hint
        return
    if is_binary(start + data):
        assert b"".join(entry.to_bytes() for entry in entries) == start + data
