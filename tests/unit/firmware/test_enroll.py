"""What virt-fw-vars is asked for, and what its result is held against. The real one is in tests/e2e."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tdxstack.errors import CommandError, MalformedError, UnavailableError, UsageError
from tdxstack.firmware.certificates import certificate_warnings, read_certificate
from tdxstack.firmware.contents import open_contents
from tdxstack.firmware.enroll import Enrolled, Enrollment, enroll, enroll_command
from tdxstack.firmware.keys import OWNER, OwnKeys, open_own_keys
from tdxstack.firmware.signatures import certificate_list
from tests.unit.firmware import firmware_images as made

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DATABASE = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
VENDOR = b"\x30\x03vendor's key"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> OwnKeys:
    return open_own_keys(tmp_path_factory.mktemp("data") / "secure-boot")


@pytest.fixture
def own(keys: OwnKeys) -> dict[str, Path]:
    return {name: keys.certificate_file(name) for name in keys.certificates}


def certificate(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | None = None, start: datetime = NOW - timedelta(1)
) -> x509.Certificate:
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(start).not_valid_after(start + timedelta(days=10))
    return builder.sign(key, hashes.SHA256())


def lists(*ders: bytes) -> bytes:
    return b"".join(certificate_list(OWNER, der) for der in ders)


def variables(
    pk: Sequence[bytes] = (), kek: Sequence[bytes] = (), db: Sequence[bytes] = (), dbx: Sequence[bytes] = ()
) -> list[bytes]:
    found = [("PK", pk, made.GLOBAL), ("KEK", kek, made.GLOBAL), ("db", db, DATABASE), ("dbx", dbx, DATABASE)]
    return [made.variable(name, lists(*ders), vendor=vendor) for name, ders, vendor in found if ders]


def der(keys: OwnKeys, name: str) -> bytes:
    return keys.certificates[name].public_bytes(Encoding.DER)


BEFORE = variables([VENDOR], [VENDOR], [VENDOR])


@pytest.fixture
def firmware(tmp_path: Path) -> Path:
    (tmp_path / "in.fd").write_bytes(made.firmware(variables=BEFORE))
    return tmp_path / "in.fd"


def enrolled(tmp_path: Path, firmware: Path, result: bytes, enrollment: Enrollment) -> Enrolled:
    """What is made of a program that gives `result` for its last argument."""
    (tmp_path / "result").write_bytes(result)
    return with_program(tmp_path, firmware, f'for last; do :; done; cp {tmp_path}/result "$last"', enrollment)


def with_program(tmp_path: Path, firmware: Path, script: str, enrollment: Enrollment) -> Enrolled:
    program = tmp_path / "virt-fw-vars"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return enroll([program], firmware, firmware.read_bytes(), enrollment)


def words(contents_of: bytes, enrollment: Enrollment) -> list[str]:
    contents = open_contents(contents_of)
    return enroll_command(["v"], Path("in.fd"), contents, enrollment, Path("dbx.json"), Path("out.fd"))


OWN = {name: Path(f"{name}.pem") for name in ("PK", "KEK", "db")}
ADDED = f"--set-pk {OWNER} PK.pem --add-kek {OWNER} KEK.pem --add-db {OWNER} db.pem"


@pytest.mark.parametrize(
    ("enrollment", "options"),
    [
        (Enrollment(OWN), ADDED),
        (Enrollment(OWN, keep=False), f"--delete KEK --delete db {ADDED}"),
        (Enrollment({}), "--delete PK"),
        (Enrollment({}, keep=False), "--delete KEK --delete db --delete PK"),
        (Enrollment(OWN, db=(Path("x.der"),)), f"{ADDED} --add-db {OWNER} x.der"),
        (Enrollment(OWN, dbx=(Path("y.pem"),)), f"{ADDED} --set-json dbx.json"),
    ],
)
def test_what_the_program_is_asked_for(enrollment: Enrollment, options: str) -> None:
    command = words(made.firmware(variables=BEFORE), enrollment)
    assert " ".join(command) == f"v --input in.fd {options} --output out.fd"


def test_only_variables_that_are_there_are_deleted() -> None:
    assert "--delete" not in words(made.firmware(), Enrollment({}, keep=False))


def test_a_switch_that_is_off_is_turned_on() -> None:
    off = [*BEFORE, made.variable("SecureBootEnable", b"\0", vendor=made.SWITCH)]
    assert words(made.firmware(variables=off), Enrollment(OWN))[-4:-2] == ["--set-true", "SecureBootEnable"]


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (made.firmware(metadata=False), "no TD can start"),
        (made.firmware([file for file in made.dxe_files() if UUID(made.BDS).bytes_le not in file]), "no TD"),
        (
            made.firmware([f for f in made.dxe_files() if UUID(made.SECURE_BOOT_CONFIG).bytes_le not in f]),
            "no Secure Boot",
        ),
        (b"\xff" * made.CFV_SIZE + made.firmware()[made.CFV_SIZE :], "no variable store"),
    ],
    ids=["no metadata", "no boot manager", "no Secure Boot", "no store"],
)
def test_firmware_that_would_not_look_at_its_keys_is_refused(image: bytes, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        words(image, Enrollment(OWN))
    assert "OVMF.inteltdx" in caught.value.hint


def test_what_changed_is_told(tmp_path: Path, firmware: Path, keys: OwnKeys, own: dict[str, Path]) -> None:
    result = made.firmware(variables=variables([der(keys, "PK")], [der(keys, "KEK")], [der(keys, "db")]))
    done = enrolled(tmp_path, firmware, result, Enrollment(own, keep=False))
    assert done.image == result
    document = done.to_json()
    assert document["secure_boot"] == {"before": "enabled", "after": "enabled"}
    assert document["rtmr0_changes"] is True
    assert done.added == {name: (der(keys, name),) for name in ("PK", "KEK", "db")} | {"dbx": ()}
    assert done.removed == dict.fromkeys(("PK", "KEK", "db"), (VENDOR,)) | {"dbx": ()}
    changes = document["variables"]
    assert isinstance(changes, dict)
    assert changes["db"]["added"][0]["subject"] == "tdxstack Secure Boot db"


def test_revocations_are_added_to_those_that_there_are(tmp_path: Path, keys: OwnKeys) -> None:
    before = [*BEFORE, *variables(dbx=[der(keys, "KEK")])]
    firmware = tmp_path / "in.fd"
    firmware.write_bytes(made.firmware(variables=before))
    revoked = tmp_path / "revoked.der"
    revoked.write_bytes(der(keys, "db"))
    again = keys.certificate_file("KEK")
    script = f'while [ "$1" != --set-json ]; do shift; done; cp "$2" {tmp_path}/json; exit 1'
    with pytest.raises(CommandError):
        with_program(tmp_path, firmware, script, Enrollment({}, dbx=(revoked, again, revoked)))
    expected = lists(der(keys, "KEK"), der(keys, "db")).hex()
    assert f'"{expected}"' in (tmp_path / "json").read_text()


def test_setup_mode(tmp_path: Path, firmware: Path) -> None:
    result = made.firmware(variables=variables([], [VENDOR], [VENDOR]))
    done = enrolled(tmp_path, firmware, result, Enrollment({}))
    assert done.to_json()["secure_boot"] == {"before": "enabled", "after": "setup mode"}
    with pytest.raises(CommandError, match="came out as enabled"):
        enrolled(tmp_path, firmware, firmware.read_bytes(), Enrollment({}))


def test_results_that_are_not_what_was_asked_for(
    tmp_path: Path, firmware: Path, keys: OwnKeys, own: dict[str, Path]
) -> None:
    good_db = [VENDOR, der(keys, "db")]
    good = variables([der(keys, "PK")], [VENDOR, der(keys, "KEK")], good_db)
    right = made.firmware(variables=good)
    assert enrolled(tmp_path, firmware, right, Enrollment(own)).removed["PK"] == (VENDOR,)
    in_volume = bytearray(right)
    in_volume[made.CFV_SIZE + 0x1000] ^= 1
    more = made.firmware(variables=[*good, made.variable("Boot0001", b"surprise")])
    dropped = made.firmware(variables=variables([der(keys, "PK")], [der(keys, "KEK")], good_db))
    two = made.firmware(variables=variables([der(keys, "PK"), VENDOR], [VENDOR, der(keys, "KEK")], good_db))
    less = made.firmware(variables=variables([der(keys, "PK")], [VENDOR, der(keys, "KEK")], [VENDOR]))
    for result, problem in (
        (bytes(in_volume), "more than the variable store|broken image"),
        (more, "changed the variable Boot0001"),
        (less, "other certificates of db"),
        (dropped, "other certificates of KEK"),
        (two, "other certificates of PK"),
        (right[:-1], "broken image|more than"),
        (b"", "broken image"),
    ):
        with pytest.raises(CommandError, match=problem):
            enrolled(tmp_path, firmware, result, Enrollment(own))


def test_a_store_that_is_too_small_is_named(tmp_path: Path, firmware: Path, own: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=f"store of {firmware} is too small"):
        with_program(tmp_path, firmware, "echo ERROR: varstore is too small >&2; exit 1", Enrollment(own))


def test_a_program_that_fails_is_quoted(tmp_path: Path, firmware: Path, own: dict[str, Path]) -> None:
    with pytest.raises(CommandError, match="failed: the last line"):
        with_program(tmp_path, firmware, "echo first; echo the last line >&2; exit 3", Enrollment(own))


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_certificates_in_either_form(tmp_path: Path, encoding: Encoding) -> None:
    one = certificate()
    (tmp_path / "one").write_bytes(one.public_bytes(encoding))
    assert read_certificate(tmp_path / "one") == one


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "no X.509 certificate"),
        (b"\x30\x82garbage", "no X.509 certificate"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no X.509 certificate"),
        (certificate().public_bytes(Encoding.PEM) * 2, "more than one"),
        (bytes(70000), "more than one"),
    ],
)
def test_garbage_is_named(tmp_path: Path, data: bytes, problem: str) -> None:
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(MalformedError, match=problem) as caught:
        read_certificate(tmp_path / "bad")
    assert str(tmp_path / "bad") in caught.value.message


def test_a_certificate_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot be read"):
        read_certificate(tmp_path / "none")


def test_what_may_keep_others_from_using_a_certificate(tmp_path: Path, keys: OwnKeys) -> None:
    wide = rsa.generate_private_key(65537, 3072)
    for one, expected in (
        (keys.certificates["db"], ""),
        (certificate(), "has no RSA key"),
        (certificate(wide), "3072 bits"),
        (certificate(wide, NOW - timedelta(days=20)), "expired on 2026-05-22"),
        (certificate(wide, NOW + timedelta(days=1)), "not valid before 2026-06-02"),
    ):
        (tmp_path / "one.pem").write_bytes(one.public_bytes(Encoding.PEM))
        found = list(certificate_warnings(tmp_path / "one.pem", NOW))
        assert expected in "; ".join(found)
        assert bool(found) is bool(expected)


def test_nothing_is_left_behind(tmp_path: Path, firmware: Path, own: dict[str, Path]) -> None:
    script = f'for last; do :; done; dirname "$last" > {tmp_path}/where; exit 1'
    with pytest.raises(CommandError):
        with_program(tmp_path, firmware, script, Enrollment(own))
    assert not Path((tmp_path / "where").read_text().strip()).exists()
