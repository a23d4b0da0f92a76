from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import MalformedError
from tdxstack.evidence.binding import host_key_blob, report_data
from tests.unit.evidence.fake_kernel import HOST_KEY_BLOB, HOST_KEY_LINE

NONCE = bytes(range(32))


def test_report_data_is_the_stated_hash() -> None:
    expected = hashlib.sha512(b"tdxstack evidence v1" + NONCE + HOST_KEY_BLOB).digest()
    assert report_data(NONCE, HOST_KEY_BLOB) == expected
    assert len(expected) == 64


def test_nonce_and_key_both_count() -> None:
    assert len({report_data(NONCE, b""), report_data(NONCE, b"k"), report_data(bytes(32), b"k")}) == 3


@pytest.mark.parametrize("size", [0, 31, 33])
def test_nonce_of_wrong_size(size: int) -> None:
    with pytest.raises(MalformedError, match=f"nonce is {size} bytes long, not 32"):
        report_data(bytes(size), b"")


def test_blob_of_a_public_key_line() -> None:
    assert host_key_blob(HOST_KEY_LINE) == HOST_KEY_BLOB
    assert host_key_blob(HOST_KEY_LINE.split(b" root")[0]) == HOST_KEY_BLOB


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "not an SSH public key"),
        (b"ssh-ed25519", "not an SSH public key"),
        (b"ssh-ed25519 ****", "is not base64"),
        (HOST_KEY_LINE.replace(b"ssh-ed25519", b"ssh-rsa"), "not one of type b'ssh-rsa'"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----", "is not base64"),
    ],
)
def test_other_lines_are_refused(line: bytes, message: str) -> None:
    with pytest.raises(MalformedError, match=message):
        host_key_blob(line)


@given(st.binary(max_size=80))
def test_any_line(line: bytes) -> None:
    try:
        host_key_blob(line)
    except MalformedError as error:
        assert error.hint


def test_blob_has_openssh_s_fingerprint(tmp_path: Path) -> None:
    if not shutil.which("ssh-keygen"):
        pytest.skip("ssh-keygen is not installed")
    (tmp_path / "key.pub").write_bytes(HOST_KEY_LINE)
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-E", "md5", "-f", tmp_path / "key.pub"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    digest = hashlib.md5(HOST_KEY_BLOB, usedforsecurity=False).digest()
    assert digest.hex(":") in shown
