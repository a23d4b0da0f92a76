from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.cli import evidence_input
from tdxstack.cli.evidence_input import MAX_SIZE, decode_evidence, read_evidence
from tdxstack.errors import MalformedError, UsageError

QUOTE = b"\4\0\2\0" + bytes(range(256))
"""As evidence starts and goes on: with bytes that no text has."""


def wrapped(text: bytes) -> bytes:
    return b"\r\n".join(text[at : at + 76] for at in range(0, len(text), 76)) + b"\r\n"


@pytest.mark.parametrize(
    "given_form",
    [
        QUOTE,
        QUOTE.hex().encode(),
        QUOTE.hex().upper().encode() + b"\n",
        b"0x" + QUOTE.hex().encode(),
        wrapped(QUOTE.hex().encode()),
        base64.b64encode(QUOTE),
        wrapped(base64.b64encode(QUOTE)),
        base64.urlsafe_b64encode(QUOTE),
        base64.urlsafe_b64encode(QUOTE).rstrip(b"="),
    ],
    ids=["binary", "hex", "HEX", "0x", "wrapped hex", "base64", "wrapped base64", "url-safe", "unpadded"],
)
def test_every_form_gives_the_same_bytes(given_form: bytes) -> None:
    assert decode_evidence(given_form) == QUOTE


@given(st.binary(min_size=1, max_size=200))
def test_text_forms_round_trip(data: bytes) -> None:
    assert decode_evidence(data.hex().encode()) == data
    binary = b"\4\0" + data
    assert decode_evidence(binary) == binary


@pytest.mark.parametrize(
    "data",
    [
        b"10 91f34a ima-ng sha256:00 boot_aggregate\n",
        b'{"recnum": 0}',
        b"abcde",  # an odd number of hex digits, and no length that base64 has
        b"-----BEGIN CERTIFICATE-----",
        b"ab=c",
        b"\n",
    ],
)
def test_other_text_is_left_alone(data: bytes) -> None:
    assert decode_evidence(data) == data


def test_three_letters_are_base64() -> None:
    assert decode_evidence(b"abc") == base64.b64decode(b"abc=")


def test_reads_a_file_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "quote.hex"
    file.write_bytes(QUOTE.hex().encode())
    assert read_evidence(str(file)) == QUOTE
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(QUOTE)))
    assert read_evidence("-") == QUOTE


def test_refuses_what_is_not_there_empty_or_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_evidence(str(tmp_path / "ghost"))
    with pytest.raises(UsageError, match="Is a directory"):
        read_evidence(str(tmp_path))
    with pytest.raises(UsageError, match="File name too long"):
        read_evidence(str(tmp_path / ("x" * 300)))
    file = tmp_path / "empty"
    file.touch()
    with pytest.raises(MalformedError, match="empty is empty"):
        read_evidence(str(file))
    assert MAX_SIZE == 16 * 1024 * 1024
    monkeypatch.setattr(evidence_input, "MAX_SIZE", len(QUOTE))
    file.write_bytes(QUOTE)
    assert read_evidence(str(file)) == QUOTE
    file.write_bytes(QUOTE + b"x")
    with pytest.raises(MalformedError, match="longer than"):
        read_evidence(str(file))
