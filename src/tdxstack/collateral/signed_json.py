"""Documents that Intel's PCS signs: `{"NAME": {...}, "signature": "HEX"}`, over the inner object's bytes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tdxstack.collateral.json_text import refuse_crowds
from tdxstack.errors import MalformedError

_WHITE = " \t\r\n"
_HINT = "pass the document exactly as the PCS or PCCS sent it"


def _once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys all differ: of two values for one key, readers take different ones."""
    value = dict(members)
    if len(value) != len(members):
        counts = Counter(key for key, _ in members)
        twice = next(key for key, count in counts.items() if count > 1)
        raise MalformedError(f"an object of the document has the key {twice!r} twice", hint=_HINT)
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_once)


@dataclass(frozen=True, slots=True)
class SignedJson:
    """A signed document: `body` is the inner object byte for byte, `value` the same parsed."""

    name: str
    body: bytes
    signature: bytes
    value: dict[str, Any]

    @classmethod
    def parse(cls, document: bytes, name: str) -> SignedJson:
        """Read a PCS document whose inner object is called `name`; trailing NUL bytes are ignored.

        Raises `MalformedError`, also if a key occurs twice: then it would be unclear which object is signed.
        """
        try:
            text = document.rstrip(b"\0").decode("utf-8")
            refuse_crowds(text, name, _HINT)
            members = _members(text)
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"{name} is not a JSON document: {error}", hint=_HINT) from error
        if set(members) != {name, "signature"}:
            raise MalformedError(f"{name}: the document holds {sorted(members)}", hint=_HINT)
        body, value = members[name]
        _, signature = members["signature"]
        if not isinstance(value, dict) or not isinstance(signature, str):
            raise MalformedError(f"{name}: an object and a signature in hex are needed", hint=_HINT)
        return cls(name, body.encode(), _signature(signature, name), value)

    @classmethod
    def of_parts(cls, name: str, body: str, signature: str) -> SignedJson:
        """Put together what other forms keep apart. Raises `MalformedError`."""
        return cls.parse(f'{{"{name}":{body},"signature":{json.dumps(signature)}}}'.encode(), name)

    def to_bytes(self) -> bytes:
        """The document as the PCS sends it, the inner object unchanged."""
        return b'{"%s":%s,"signature":"%s"}' % (self.name.encode(), self.body, self.signature.hex().encode())


def _signature(text: str, name: str) -> bytes:
    try:
        signature = bytes.fromhex(text)
    except ValueError:
        signature = b""
    if len(signature) != 64:
        raise MalformedError(f"{name}: the signature {text[:140]!r} is not 64 bytes in hex", hint=_HINT)
    return signature


def _members(text: str) -> dict[str, tuple[str, Any]]:
    """The members of `text`, a JSON object: for each key its value as written and as parsed."""
    members: dict[str, tuple[str, Any]] = {}
    at = _expect(text, 0, "{")
    while True:
        key, at = _DECODER.raw_decode(text, _skip(text, at))
        if not isinstance(key, str) or key in members:
            raise MalformedError(f"the document has the key {key!r} twice or not as text", hint=_HINT)
        start = _skip(text, _expect(text, at, ":"))
        value, end = _DECODER.raw_decode(text, start)
        members[key] = (text[start:end], value)
        at = _skip(text, end)
        if text[at : at + 1] != ",":
            break
        at += 1
    if _skip(text, _expect(text, at, "}")) != len(text):
        raise MalformedError(f"the document goes on after its end at character {at + 1}", hint=_HINT)
    return members


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _WHITE:
        at += 1
    return at


def _expect(text: str, at: int, character: str) -> int:
    at = _skip(text, at)
    if text[at : at + 1] != character:
        raise MalformedError(
            f"the document has {text[at : at + 1]!r} at character {at}, not {character!r}", hint=_HINT
        )
    return at + 1
