"""The emulated root of trust: what is made, who can read it, when it is renewed, and what is left alone."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tdxstack.collateral.bundle import QE_IDENTITY, TCB_INFO
from tdxstack.collateral.signed_json import SignedJson
from tdxstack.errors import UnavailableError
from tdxstack.quoting import authority
from tdxstack.quoting.pki import Pki, open_pki
from tdxstack.verification.emulated import EMULATED_MARKER_DER, EMULATED_MARKER_OID

from .conftest import NOW

OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")


@pytest.fixture
def copy(pki: Pki, tmp_path: Path) -> Path:
    """A platform that a test may spoil."""
    shutil.copytree(pki.directory, tmp_path / "pki")
    return tmp_path / "pki"


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_keys_are_for_the_owner_only(pki: Pki) -> None:
    assert stat.S_IMODE(pki.directory.stat().st_mode) == 0o700
    keys = sorted(path.name for path in pki.directory.glob("*.key"))
    assert keys == ["pck-platform-ca.key", "pck.key", "report-mac.key", "root-ca.key", "tcb-signing.key"]
    for name in keys:
        assert stat.S_IMODE((pki.directory / name).stat().st_mode) == 0o600


def test_the_report_mac_key_is_a_file_of_32_raw_bytes(pki: Pki) -> None:
    assert pki.report_mac_key_file.read_bytes() == pki.report_mac_key
    assert len(pki.report_mac_key) == 32


def test_every_name_says_emulated_and_the_root_is_marked(pki: Pki) -> None:
    for certificate in (pki.root, pki.platform_ca, pki.pck, pki.tcb_signing):
        for attribute in certificate.subject:
            assert "tdxstack emulated" in str(attribute.value)
    marker = pki.trust_anchor.extensions.get_extension_for_oid(x509.ObjectIdentifier(EMULATED_MARKER_OID))
    assert not marker.critical
    assert isinstance(marker.value, x509.UnrecognizedExtension)
    assert marker.value.value == EMULATED_MARKER_DER


def test_opening_again_changes_nothing(copy: Path) -> None:
    before = contents(copy)
    opened = open_pki(copy, NOW + timedelta(days=20))
    assert contents(copy) == before
    assert opened.report_mac_key == before["report-mac.key"]


def test_two_platforms_have_nothing_secret_in_common(pki: Pki, tmp_path: Path) -> None:
    other = open_pki(tmp_path / "pki", NOW)
    assert other.report_mac_key != pki.report_mac_key
    assert other.root.public_key() != pki.root.public_key()
    assert other.platform == pki.platform


def _root_of(directory: Path, now: datetime) -> bytes:
    return open_pki(directory, now).root.public_bytes(Encoding.DER)


def test_concurrent_first_uses_give_one_platform(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "pki"
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        roots = set(pool.map(_root_of, [directory] * 8, [NOW] * 8))
    assert roots == {_root_of(directory, NOW)}
    assert sorted(path.name for path in directory.parent.iterdir()) == [".pki.lock", "pki"]


def test_an_interrupted_first_use_leaves_no_half_and_is_taken_up(tmp_path: Path) -> None:
    unfinished = tmp_path / ".pki.new"
    unfinished.mkdir(mode=0o700)
    (unfinished / "root-ca.key").write_bytes(b"half a key")
    open_pki(tmp_path / "pki", NOW)
    assert not unfinished.exists()


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    (tmp_path / "pki").mkdir(mode=0o700)
    assert open_pki(tmp_path / "pki", NOW).signed.is_current(NOW)


# --- renewal


@pytest.mark.parametrize(
    ("days", "renewed"), [(22, False), (23, True), (29, True), (31, True), (400, True), (-1, True)]
)
def test_collateral_is_signed_again_near_its_end_with_the_same_keys(
    copy: Path, days: int, renewed: bool
) -> None:
    before = contents(copy)
    now = NOW + timedelta(days=days)
    opened = open_pki(copy, now)
    after = contents(copy)
    changed = {name for name in before if before[name] != after[name]}
    expected = {"pck.crl.der", "root-ca.crl.der", "tcb-info.json", "qe-identity.json"}
    assert changed == (expected if renewed else set())
    assert opened.signed.issued <= now < opened.signed.next_update - timedelta(days=7)
    assert open_pki(copy, now).signed == opened.signed


def test_crl_numbers_grow(copy: Path) -> None:
    def number() -> int:
        crl = x509.load_der_x509_crl((copy / "root-ca.crl.der").read_bytes())
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number

    before = number()
    open_pki(copy, NOW + timedelta(days=25))
    assert number() > before


def test_a_renewal_that_was_cut_off_is_done_again(copy: Path) -> None:
    old = contents(copy)
    later = NOW + timedelta(days=25)
    open_pki(copy, later)
    (copy / "tcb-info.json").write_bytes(old["tcb-info.json"])
    assert open_pki(copy, later).signed.is_current(later)
    assert (copy / "tcb-info.json").read_bytes() != old["tcb-info.json"]


def test_a_clock_set_back_after_half_a_renewal_does_not_pass_for_valid(copy: Path) -> None:
    old = contents(copy)
    open_pki(copy, NOW + timedelta(days=25))
    (copy / "tcb-info.json").write_bytes(old["tcb-info.json"])
    assert open_pki(copy, NOW + timedelta(days=1)).signed.issued == NOW.replace(microsecond=0) + timedelta(
        hours=23
    )


# --- damage


CHECKED = [
    "root-ca.pem",
    "root-ca.key",
    "pck-platform-ca.pem",
    "pck.pem",
    "pck.key",
    "tcb-signing.key",
    "platform.json",
    "root-ca.crl.der",
    "pck.crl.der",
    "tcb-info.json",
    "qe-identity.json",
]


@pytest.mark.parametrize(
    ("name", "damage"),
    [(name, damage) for name in CHECKED for damage in ("missing", "cut", "changed")]
    # A changed MAC key is as random as the right one. Reports are refused then.
    + [("report-mac.key", "missing"), ("report-mac.key", "cut")],
)
def test_damage_is_named_and_nothing_is_overwritten(copy: Path, name: str, damage: str) -> None:
    path = copy / name
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        # In the second line of PEM; in the signature of the other signed files.
        data[100 if name.endswith((".pem", ".key")) else -60] ^= 1
        path.write_bytes(data)
    before = contents(copy)
    with pytest.raises(UnavailableError) as caught:
        open_pki(copy, NOW + timedelta(days=40))
    assert name in caught.value.message
    assert "restore" in caught.value.hint and str(copy) in caught.value.hint
    assert contents(copy) == before


def test_another_platforms_key_or_certificate_is_noticed(copy: Path, tmp_path: Path) -> None:
    other = open_pki(tmp_path / "other", NOW)
    shutil.copy(other.directory / "tcb-signing.key", copy / "tcb-signing.key")
    with pytest.raises(UnavailableError, match=r"tcb-signing\.key: does not belong"):
        open_pki(copy, NOW)
    shutil.copy(other.directory / "tcb-signing.pem", copy / "tcb-signing.pem")
    with pytest.raises(UnavailableError, match=r"tcb-signing\.pem: was not issued"):
        open_pki(copy, NOW)


def test_a_root_without_the_mark_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.25.1"), EMULATED_MARKER_DER)
    monkeypatch.setattr(authority, "MARKER", other)
    with pytest.raises(UnavailableError, match="the mark of emulated platforms"):
        open_pki(tmp_path / "pki", NOW)


@pytest.mark.parametrize("name", [".", "root-ca.key", "report-mac.key"])
def test_keys_that_others_can_reach_are_not_used(copy: Path, name: str) -> None:
    path = copy / name
    path.chmod(path.stat().st_mode | 0o040)
    with pytest.raises(UnavailableError, match="others can reach") as caught:
        open_pki(copy, NOW)
    assert "chmod" in caught.value.hint
    assert path.stat().st_mode & 0o040


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "pki").write_text("something else")
    with pytest.raises(UnavailableError, match="Not a directory"):
        open_pki(tmp_path / "pki", NOW)
    assert (tmp_path / "pki").read_text() == "something else"


def test_a_place_where_nothing_can_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="/proc/1/pki"):
        open_pki(Path("/proc/1/pki"), NOW)


# --- the signed documents


def test_tcb_info_and_qe_identity_describe_the_platform(pki: Pki) -> None:
    collateral = pki.collateral()
    info = SignedJson.parse(collateral.tcb_info, TCB_INFO).value
    assert (info["id"], info["version"], info["tcbType"]) == ("TDX", 3, 0)
    assert bytes.fromhex(info["fmspc"]) == pki.platform.fmspc
    assert bytes.fromhex(info["pceId"]) == pki.platform.pce_id
    assert {entry["id"] for entry in info["tdxModuleIdentities"]} == {"TDX_01", "TDX_03"}
    best = info["tcbLevels"][0]
    assert best["tcbStatus"] == "UpToDate"
    assert bytes(component["svn"] for component in best["tcb"]["sgxtcbcomponents"]) == pki.platform.cpusvn
    assert (
        bytes(component["svn"] for component in best["tcb"]["tdxtcbcomponents"]) == pki.platform.tee_tcb_svn
    )
    identity = SignedJson.parse(collateral.qe_identity, QE_IDENTITY).value
    assert (identity["id"], identity["version"]) == ("TD_QE", 2)
    assert bytes.fromhex(identity["mrsigner"]) == pki.platform.qe_mrsigner


def test_documents_are_compact_and_their_times_are_intels(pki: Pki) -> None:
    document = pki.signed.tcb_info
    parsed = json.loads(document)
    assert document == json.dumps(parsed, separators=(",", ":")).encode()
    assert parsed["tcbInfo"]["issueDate"] == "2026-03-01T11:00:30Z"
    assert parsed["tcbInfo"]["nextUpdate"] == "2026-03-31T11:00:30Z"


# --- openssl as a second opinion


def openssl(*words: object) -> str:
    assert OPENSSL is not None
    done = subprocess.run([OPENSSL, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@needs_openssl
def test_openssl_verifies_the_chains_and_both_crls(pki: Pki, tmp_path: Path) -> None:
    files = pki.directory
    crls = b"".join(
        x509.load_der_x509_crl(der).public_bytes(Encoding.PEM)
        for der in (pki.signed.root_crl, pki.signed.pck_crl)
    )
    (tmp_path / "crls.pem").write_bytes(crls)
    checks = ("-x509_strict", "-crl_check_all", "-CRLfile", tmp_path / "crls.pem")
    at = ("-attime", int(NOW.timestamp()), "-CAfile", files / "root-ca.pem")
    assert "pck.pem: OK" in openssl(
        "verify", *checks, *at, "-untrusted", files / "pck-platform-ca.pem", files / "pck.pem"
    )
    assert "tcb-signing.pem: OK" in openssl("verify", *checks, *at, files / "tcb-signing.pem")


@needs_openssl
def test_openssl_verifies_the_signature_over_the_inner_document(pki: Pki, tmp_path: Path) -> None:
    inner, _, signature = pki.signed.tcb_info[len(b'{"tcbInfo":') : -2].rpartition(b',"signature":"')
    raw = bytes.fromhex(signature.decode())
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    ints = [b"\2" + bytes((len(body),)) + body for body in map(_der_integer_body, (r, s))]
    (tmp_path / "inner").write_bytes(inner)
    (tmp_path / "signature").write_bytes(b"\x30" + bytes((len(b"".join(ints)),)) + b"".join(ints))
    key = pki.tcb_signing.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    public = openssl("x509", "-in", pki.directory / "tcb-signing.pem", "-pubkey", "-noout")
    (tmp_path / "public").write_text(public)
    words = ("-verify", tmp_path / "public", "-signature", tmp_path / "signature", tmp_path / "inner")
    assert "Verified OK" in openssl("dgst", "-sha256", *words)


def _der_integer_body(number: int) -> bytes:
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


@needs_openssl
def test_openssl_shows_the_marker_of_the_root(pki: Pki) -> None:
    text = openssl("x509", "-in", pki.directory / "root-ca.pem", "-noout", "-text")
    assert "tdxstack emulated TDX: not protected" in text
