from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdxstack.collateral.signed_json import SignedJson
from tdxstack.errors import MalformedError

SIGNATURE = "ab" * 64


def document(inner: str, signature: str = SIGNATURE) -> bytes:
    return f'{{"tcbInfo":{inner},"signature":"{signature}"}}'.encode()


@pytest.mark.parametrize(
    "inner",
    [
        "{}",
        '{"a":1}',
        '{ "a" : [1, 2.50, "\\u00e9", "}"] }',
        '{"signature":"inner","tcbInfo":{}}',
        '{"é":"}"}',
    ],
)
def test_the_signed_bytes_are_those_of_the_document(inner: str) -> None:
    parsed = SignedJson.parse(document(inner), "tcbInfo")
    assert parsed.body == inner.encode()
    assert parsed.signature == bytes.fromhex(SIGNATURE)
    assert parsed.to_bytes() == document(inner)


def test_order_white_space_and_trailing_nul_do_not_matter() -> None:
    text = f' {{ "signature" : "{SIGNATURE}" ,\n"tcbInfo"\t: {{"a": 1}} }}\r\n\0'.encode()
    parsed = SignedJson.parse(text, "tcbInfo")
    assert parsed.body == b'{"a": 1}'
    assert parsed.value == {"a": 1}


def test_parts_make_the_same_document() -> None:
    assert SignedJson.of_parts("tcbInfo", '{"a": 1}', SIGNATURE).to_bytes() == document('{"a": 1}')


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b'"tcbInfo"',
        b"\xff\xfe",
        b"{",
        document("{}")[:-1],
        document("{}") + b"x",
        document("[]"),
        document('"text"'),
        document("{}", "ab" * 63),
        document("{}", "zz" * 64),
        document("{}").replace(b"tcbInfo", b"other"),
        b'{"tcbInfo":{}}',
        b'{"tcbInfo":{},"signature":1}',
        b'{"tcbInfo":{},"tcbInfo":{"b":1},"signature":"' + SIGNATURE.encode() + b'"}',
        b'{"tcbInfo":{},"signature":"' + SIGNATURE.encode() + b'","more":1}',
        document("[" * 100_000),
        document('{"a":' + "9" * 5000 + "}"),
    ],
)
def test_anything_else_is_malformed(text: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        SignedJson.parse(text, "tcbInfo")
    assert caught.value.hint


def test_parts_cannot_smuggle_in_a_second_object() -> None:
    with pytest.raises(MalformedError):
        SignedJson.of_parts("tcbInfo", '{},"tcbInfo":{"b":1}', SIGNATURE)


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet='{}[]":,tcbInfo sgature0\\', max_size=80).map(str.encode))
def test_any_input_gives_a_document_or_malformed(data: bytes) -> None:
    try:
        SignedJson.parse(data, "tcbInfo")
    except MalformedError as error:
        assert error.hint
