"""Own Secure Boot keys: made once, whole or not at all, refused where others can read them."""

from __future__ import annotations

import shutil
import stat
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tdxstack.errors import UnavailableError
from tdxstack.firmware.keys import NAMES, OwnKeys, open_own_keys


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> OwnKeys:
    return open_own_keys(tmp_path_factory.mktemp("data") / "secure-boot")


@pytest.fixture
def copy(made: OwnKeys, tmp_path: Path) -> Path:
    return shutil.copytree(made.directory, tmp_path / "secure-boot")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_three_pairs_that_only_their_owner_can_read(made: OwnKeys) -> None:
    assert mode(made.directory) == 0o700
    assert {path.name for path in made.directory.iterdir()} == {
        f"{name}.{kind}" for name in ("PK", "KEK", "db") for kind in ("key", "pem")
    }
    for name in NAMES:
        assert mode(made.key_file(name)) == 0o600
        key = made.certificates[name].public_key()
        assert isinstance(key, rsa.RSAPublicKey)
        assert key.key_size == 2048
    assert len({made.key_file(name).read_bytes() for name in NAMES}) == 3


def test_opening_again_changes_nothing(made: OwnKeys, copy: Path) -> None:
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    assert open_own_keys(copy).certificates == made.certificates
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def _db_of(directory: Path) -> bytes:
    return open_own_keys(directory).certificates["db"].public_bytes(Encoding.DER)


def test_concurrent_first_uses_give_the_same_keys(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "secure-boot"
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        assert len(set(pool.map(_db_of, [directory] * 4))) == 1
    assert sorted(path.name for path in directory.parent.iterdir()) == [".secure-boot.lock", "secure-boot"]


def test_an_interrupted_first_use_is_taken_up(tmp_path: Path) -> None:
    unfinished = tmp_path / ".secure-boot.new"
    unfinished.mkdir(mode=0o700)
    (unfinished / "PK.key").write_bytes(b"half a key")
    open_own_keys(tmp_path / "secure-boot")
    assert not unfinished.exists()


@pytest.mark.parametrize(("name", "bad"), [("db.key", 0o640), ("PK.key", 0o604), (".", 0o750)])
def test_keys_that_others_can_reach_are_refused_by_name(copy: Path, name: str, bad: int) -> None:
    (copy / name).chmod(bad)
    with pytest.raises(UnavailableError, match=f"mode {bad:04o}") as caught:
        open_own_keys(copy)
    assert str(copy / name) in caught.value.message
    assert f"chmod go= {copy / name}" in caught.value.hint


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("KEK.pem", b"garbage", "cannot be read"),
        ("db.key", b"garbage", "cannot be read"),
        ("db.key", pem(rsa.generate_private_key(65537, 2048)), "does not belong"),
        ("db.key", pem(ec.generate_private_key(ec.SECP256R1())), "does not belong"),
        ("PK.pem", None, "is missing"),
    ],
)
def test_damaged_keys_are_named_and_left(copy: Path, name: str, content: bytes | None, problem: str) -> None:
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(content)
    with pytest.raises(UnavailableError, match=problem) as caught:
        open_own_keys(copy)
    assert str(copy / name) in caught.value.message
    assert (copy / "KEK.key").exists()


def test_a_place_that_is_no_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"")
    with pytest.raises(UnavailableError, match="cannot be kept"):
        open_own_keys(tmp_path / "data" / "secure-boot")
