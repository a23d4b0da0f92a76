"""Attestation results: what the trustworthiness vector claims, and tokens that others can read."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tdxstack.errors import MalformedError, RejectedError
from tdxstack.verification.quote import QuoteResult
from tdxstack.verification.result import Check, Status, fail, ok, unknown
from tdxstack.verification.tcb_info import TcbStatus
from tdxstack.verification.token import (
    EAR_PROFILE,
    Appraisal,
    SigningKey,
    claims_of,
    is_emulated,
    sign_token,
    tier_of,
    verify_token,
)
from tdxstack.verification.trust_vector import Tier, overall, trust_vector
from tests.recorded_boot import NOW, Recorded

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
KEYS: dict[str, PrivateKey] = {
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def private_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(scope="module")
def emulated(boot: Recorded) -> QuoteResult:
    """An accepted result about emulated evidence."""
    result = boot.verify().quote
    assert result is not None and result.accepted
    return result


@pytest.fixture(scope="module")
def genuine(emulated: QuoteResult) -> QuoteResult:
    """The same as if it were about hardware."""
    return replace(emulated, emulated=False)


def with_checks(result: QuoteResult, *checks: Check) -> QuoteResult:
    """`result` with these checks instead of those of the same ids, or besides."""
    changed = {check.id: check for check in checks}
    kept = [changed.pop(check.id, check) for check in result.checks]
    return replace(result, checks=(*kept, *changed.values()))


def failed(check_id: str) -> Check:
    return fail(check_id, "good", "bad")


def with_status(result: QuoteResult, status: TcbStatus) -> QuoteResult:
    assert result.tcb is not None
    return replace(result, tcb=replace(result.tcb, status=status))


# The vector.


def test_a_good_platform_is_affirmed(genuine: QuoteResult) -> None:
    vector = trust_vector(genuine)
    assert vector == {"instance-identity": 2, "configuration": 3, "hardware": 2, "runtime-opaque": 2}
    assert overall(vector, accepted=True) is Tier.AFFIRMING
    assert overall(vector, accepted=False) is Tier.CONTRAINDICATED


def test_emulated_evidence_is_never_affirmed(emulated: QuoteResult) -> None:
    vector = trust_vector(emulated)
    assert vector["hardware"] == vector["instance-identity"] == vector["runtime-opaque"] == 96
    assert overall(vector, accepted=emulated.accepted) is Tier.CONTRAINDICATED


@pytest.mark.parametrize(
    ("check_id", "claims"),
    [
        (
            "quote.signature",
            {"instance-identity": 99, "configuration": 99, "hardware": 99, "runtime-opaque": 99},
        ),
        ("quote.qe_report_binding", {"hardware": 99}),
        ("pck.chain", {"instance-identity": 99}),
        ("pck.trust_anchor", {"instance-identity": 97, "hardware": 97, "runtime-opaque": 1}),
        ("pck.revocation", {"instance-identity": 96, "hardware": 96, "runtime-opaque": 1}),
        ("pck.fmspc", {"instance-identity": 97}),
        ("crl.pck", {"instance-identity": 1, "hardware": 1, "runtime-opaque": 1}),
        ("tcb_info.freshness", {"instance-identity": 2, "hardware": 1, "runtime-opaque": 1}),
        ("qe_identity.signature", {"hardware": 1}),
        ("tcb.module", {"hardware": 97, "runtime-opaque": 1}),
        ("qe.identity", {"hardware": 97}),
        ("tcb.advisories", {"hardware": 96}),
        ("td.attributes", {"configuration": 96, "hardware": 2}),
        ("td.service_td", {"configuration": 96}),
        ("td.expected.mrtd", {"executables": 33, "hardware": 2}),
        ("reference.rtmr1", {"executables": 33}),
        ("rtmr1.replay", {"executables": 33}),
        ("reference.rtmr1", {"executables": 33}),
    ],
)
def test_each_failure_shows(genuine: QuoteResult, check_id: str, claims: dict[str, int]) -> None:
    vector = trust_vector(with_checks(genuine, failed(check_id)))
    assert {name: vector[name] for name in claims} == claims


@pytest.mark.parametrize(
    ("status", "hardware", "configuration"),
    [
        (TcbStatus.UP_TO_DATE, 2, 3),
        (TcbStatus.SW_HARDENING_NEEDED, 32, 3),
        (TcbStatus.CONFIGURATION_NEEDED, 32, 32),
        (TcbStatus.OUT_OF_DATE, 32, 3),
        (TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED, 32, 32),
        (TcbStatus.REVOKED, 96, 3),
        (TcbStatus.NOT_SUPPORTED, 97, 3),
    ],
)
def test_the_tcb_status_is_about_hardware(
    genuine: QuoteResult, status: TcbStatus, hardware: int, configuration: int
) -> None:
    vector = trust_vector(with_status(genuine, status))
    assert (vector["hardware"], vector["configuration"]) == (hardware, configuration)
    assert vector["runtime-opaque"] == (2 if hardware in (2, 32) else 1)


def test_what_was_not_judged_is_not_affirmed(genuine: QuoteResult) -> None:
    assert trust_vector(replace(genuine, tcb=None))["hardware"] == 1
    vector = trust_vector(with_checks(genuine, unknown("pck.revocation", "no list")))
    assert vector["instance-identity"] == vector["hardware"] == 1
    assert overall({"hardware": 1}, accepted=True) is Tier.NONE


@pytest.mark.parametrize("bit", [0, 5])
def test_an_open_td_is_not_opaque_even_where_it_is_accepted(genuine: QuoteResult, bit: int) -> None:
    body: Any = genuine.quote.body
    quote = replace(genuine.quote, body=replace(body, td_attributes=body.td_attributes | 1 << bit))
    vector = trust_vector(replace(genuine, quote=quote))
    assert vector["runtime-opaque"] == vector["configuration"] == 96


@pytest.mark.parametrize("by", ["td.expected", "reference"])
def test_executables_are_claimed_where_every_register_was_expected(genuine: QuoteResult, by: str) -> None:
    registers = [ok(f"{by}.{name}") for name in ("mrtd", "rtmr0", "rtmr1", "rtmr2")]
    assert trust_vector(with_checks(genuine, *registers))["executables"] == 3
    assert "executables" not in trust_vector(with_checks(genuine, *registers[:3]))
    referred = [*registers[:3], ok("reference.rtmr2")]
    assert trust_vector(with_checks(genuine, *referred))["executables"] == 3
    assert trust_vector(with_checks(genuine, *registers, failed("reference.rtmr2")))["executables"] == 33
    assert trust_vector(with_checks(genuine, *registers, failed("td.expected.mrowner")))["executables"] == 3


def test_warnings_about_the_configuration_are_warnings(genuine: QuoteResult) -> None:
    vector = trust_vector(with_checks(genuine, Check("td.attributes", Status.WARNING)))
    assert vector["configuration"] == 32
    assert overall(vector, accepted=True) is Tier.WARNING


def test_tiers_are_those_of_the_draft() -> None:
    edges = {
        -128: "contraindicated",
        -97: "contraindicated",
        -96: "warning",
        -33: "warning",
        -32: "affirming",
    }
    edges |= {-2: "affirming", -1: "none", 0: "none", 1: "none", 2: "affirming", 31: "affirming"}
    edges |= {32: "warning", 95: "warning", 96: "contraindicated", 127: "contraindicated"}
    assert {value: Tier.of(value).value for value in edges} == edges


# The token.


def token_of(result: QuoteResult, key: PrivateKey, nonce: bytes = b"") -> str:
    claims = claims_of(Appraisal(result, ("sha256:00",), NOW, nonce))
    return sign_token(claims, SigningKey.from_pem(private_pem(key)))


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_token_can_be_read_by_hand(genuine: QuoteResult, algorithm: str) -> None:
    key = KEYS[algorithm]
    head, body, signature = token_of(genuine, key).split(".")
    header, claims = json.loads(decoded(head)), json.loads(decoded(body))
    assert (header["alg"], header["typ"]) == (algorithm, "eat+jwt")
    assert claims["eat_profile"] == EAR_PROFILE
    assert (claims["iat"], claims["exp"]) == (int(NOW.timestamp()), int(NOW.timestamp()) + 3600)
    assert set(claims["ear_verifier_id"]) == {"developer", "build"}
    submodule = claims["submods"]["tdx"]
    assert claims["ear_status"] == submodule["ear_status"] == "affirming"
    assert submodule["ear_trustworthiness_vector"]["hardware"] == 2
    assert submodule["ear_appraisal_policy_ids"] == ["sha256:00"]
    assert submodule["tdxstack"]["emulated"] is False
    body_of_quote: Any = genuine.quote.body
    assert submodule["tdxstack"]["measurements"]["mrtd"] == body_of_quote.mrtd.hex()
    signed = f"{head}.{body}".encode()
    if isinstance(key, ed25519.Ed25519PrivateKey):
        key.public_key().verify(decoded(signature), signed)
        return
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    raw = decoded(signature)
    middle = len(raw) // 2
    der = encode_dss_signature(int.from_bytes(raw[:middle]), int.from_bytes(raw[middle:]))
    digest = hashes.SHA256() if algorithm == "ES256" else hashes.SHA384()
    key.public_key().verify(der, signed, ec.ECDSA(digest))
    with pytest.raises(InvalidSignature):
        key.public_key().verify(der, signed + b"x", ec.ECDSA(digest))


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_token_is_verified(genuine: QuoteResult, algorithm: str) -> None:
    token = token_of(genuine, KEYS[algorithm]).encode()
    claims = verify_token(token + b"\n", public_pem(KEYS[algorithm]), time=NOW)
    assert tier_of(claims) is Tier.AFFIRMING and not is_emulated(claims)
    for other in KEYS.values():
        if other is not KEYS[algorithm]:
            with pytest.raises(RejectedError):
                verify_token(token, public_pem(other), time=NOW)


def test_a_token_says_that_evidence_is_emulated(emulated: QuoteResult) -> None:
    claims = verify_token(token_of(emulated, KEYS["ES256"]).encode(), public_pem(KEYS["ES256"]), time=NOW)
    assert is_emulated(claims)
    assert claims["submods"]["tdx"]["tdxstack"]["verdict"] == "accepted"
    assert tier_of(claims) is Tier.CONTRAINDICATED


def test_rejected_evidence_is_contraindicated_with_its_reasons(genuine: QuoteResult) -> None:
    claims = claims_of(Appraisal(with_checks(genuine, failed("td.nonce")), ("x",), NOW, b"\x01" * 32))
    assert tier_of(claims) is Tier.CONTRAINDICATED
    submodule = claims["submods"]["tdx"]
    assert submodule["tdxstack"]["failing_checks"] == ["td.nonce"]
    assert "eat_nonce" not in submodule


def test_the_nonce_is_there_where_it_was_bound(genuine: QuoteResult) -> None:
    for check_id in ("td.nonce", "evidence.nonce"):
        result = with_checks(genuine, ok(check_id))
        submodule = claims_of(Appraisal(result, ("x",), NOW, b"\xff" * 32))["submods"]["tdx"]
        assert decoded(submodule["eat_nonce"]) == b"\xff" * 32
    assert "eat_nonce" not in claims_of(Appraisal(genuine, ("x",), NOW, b"\xff" * 32))["submods"]["tdx"]


def test_a_token_has_its_time(genuine: QuoteResult) -> None:
    token, key = token_of(genuine, KEYS["ES256"]).encode(), public_pem(KEYS["ES256"])
    verify_token(token, key, time=NOW + timedelta(minutes=59))
    for time in (NOW - timedelta(seconds=8), NOW + timedelta(hours=1)):
        with pytest.raises(RejectedError, match="counts from 2026-03-04T05:06:07Z to 2026-03-04T06:06:07Z"):
            verify_token(token, key, time=time)


@pytest.mark.parametrize(
    "change",
    [
        {"eat_profile": "tag:example.org,2026:other"},
        {"exp": None},
        {"exp": 9999999999.5},
        {"iat": True},
        {"iat": 10**30},
    ],
)
def test_other_tokens_are_refused(genuine: QuoteResult, change: dict[str, Any]) -> None:
    claims = claims_of(Appraisal(genuine, ("x",), NOW)) | change
    token = sign_token(claims, SigningKey.from_pem(private_pem(KEYS["ES256"])))
    with pytest.raises(RejectedError):
        verify_token(token.encode(), public_pem(KEYS["ES256"]), time=NOW)


def test_a_change_anywhere_is_noticed(genuine: QuoteResult) -> None:
    token, key = token_of(genuine, KEYS["ES256"]), public_pem(KEYS["ES256"])
    for at in range(0, len(token) - 2, 97):
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        with pytest.raises((RejectedError, MalformedError)):
            verify_token(changed.encode(), key, time=NOW)


def test_no_token_signs_itself(genuine: QuoteResult) -> None:
    """Neither "none" nor an HMAC with the public key as its secret."""
    body = token_of(genuine, KEYS["ES256"]).split(".")[1]
    for algorithm in ("none", "HS256", "ES512", "Ed25519"):
        head = base64.urlsafe_b64encode(json.dumps({"alg": algorithm}).encode()).rstrip(b"=").decode()
        for signature in ("", "AAAA"):
            with pytest.raises((RejectedError, MalformedError)):
                verify_token(f"{head}.{body}.{signature}".encode(), public_pem(KEYS["ES256"]), time=NOW)


@settings(max_examples=80, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=100),
        st.from_regex(rb"[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,90}"),
    )
)
def test_any_bytes_are_refused(token: bytes) -> None:
    with pytest.raises((RejectedError, MalformedError)):
        verify_token(token, public_pem(KEYS["ES256"]), time=NOW)


def test_a_token_is_bounded() -> None:
    with pytest.raises(MalformedError):
        verify_token(b"a" * (1 << 17), public_pem(KEYS["ES256"]), time=NOW)


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"no key",
        private_pem(ec.generate_private_key(ec.SECP521R1())),
        private_pem(rsa.generate_private_key(65537, 2048)),
        public_pem(KEYS["ES256"]),
        KEYS["ES256"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")),
    ],
)
def test_only_keys_that_fit_sign(pem: bytes) -> None:
    with pytest.raises(MalformedError):
        SigningKey.from_pem(pem)


def test_only_public_keys_verify(genuine: QuoteResult) -> None:
    token = token_of(genuine, KEYS["ES256"]).encode()
    for pem in (b"", private_pem(KEYS["ES256"]), public_pem(rsa.generate_private_key(65537, 2048))):
        with pytest.raises(MalformedError):
            verify_token(token, pem, time=NOW)
