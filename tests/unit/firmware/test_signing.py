"""What is asked of sbsign, and what is made of its answers. The real one is in tests/e2e."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key, pkcs7

from tdxstack.errors import CommandError, MalformedError
from tdxstack.firmware.keys import OwnKeys, open_own_keys
from tdxstack.firmware.signing import is_signed_by, sign
from tdxstack.measurement.pe import Image
from tests.unit.firmware.stand_ins import stand_ins
from tests.unit.measurement import pe_images as made

SECTIONS = {".text": b"program"}
PROGRAM = made.program(SECTIONS)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> OwnKeys:
    return open_own_keys(tmp_path_factory.mktemp("data") / "secure-boot")


def signed_with(keys: OwnKeys, name: str) -> bytes:
    """The program with a signature of one of the keys, made without sbsign."""
    key = load_pem_private_key(keys.key_file(name).read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    signature = (
        pkcs7.PKCS7SignatureBuilder()
        .set_data(made.digest(PROGRAM, algorithm="sha256"))
        .add_signer(keys.certificates[name], key, hashes.SHA256())
        .sign(Encoding.DER, [pkcs7.PKCS7Options.Binary])
    )
    return made.program(SECTIONS, signatures=(signature,))


def test_sbsign_is_given_the_own_db_key_and_a_fixed_time(
    keys: OwnKeys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "answer").write_bytes(signed_with(keys, "db"))
    script = f'echo "$FAKETIME_FMT $FAKETIME" "$@" > {tmp_path}/asked; cp {tmp_path}/answer "$6"'
    toolbox = stand_ins(tmp_path / "toolbox", "secure-boot", {"sbsign": script}, monkeypatch)
    assert sign(PROGRAM, keys, toolbox) == signed_with(keys, "db")
    words = (tmp_path / "asked").read_text().split()
    assert words[:7] == [
        "%s",
        "1704067200",  # 2024-01-01
        "--key",
        str(keys.directory / "db.key"),
        "--cert",
        str(keys.directory / "db.pem"),
        "--output",
    ]


def test_only_the_db_key_counts(keys: OwnKeys) -> None:
    assert is_signed_by(Image.parse(signed_with(keys, "db")), keys)
    assert not is_signed_by(Image.parse(signed_with(keys, "KEK")), keys)
    assert not is_signed_by(Image.parse(PROGRAM), keys)


@pytest.mark.parametrize("script", ['cp "$7" "$6"', "exit 1"], ids=["unsigned", "failed"])
def test_a_result_that_firmware_would_refuse_is_none(
    keys: OwnKeys, tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    toolbox = stand_ins(tmp_path, "secure-boot", {"sbsign": script}, monkeypatch)
    with pytest.raises(CommandError):
        sign(PROGRAM, keys, toolbox)


def test_what_is_no_program_is_not_signed(
    keys: OwnKeys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toolbox = stand_ins(tmp_path, "secure-boot", {"sbsign": "exit 1"}, monkeypatch)
    with pytest.raises(MalformedError, match="PE"):
        sign(b"#!/bin/sh\n", keys, toolbox)
