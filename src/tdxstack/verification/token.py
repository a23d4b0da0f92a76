"""Attestation results as signed tokens: EAR, an EAT in a JWT, with the AR4SI trustworthiness vector.

Source: draft-ietf-rats-ear-04 (claims), RFC 9711 (EAT), RFC 7519 (JWT), RFC 7638 (key id). The claims of our
own are described in docs/reference/token.md.
"""

from __future__ import annotations

import base64
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from joserfc import jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, OKPKey

from tdxstack import __version__
from tdxstack.abi.sgx_report import SgxReportBody
from tdxstack.errors import MalformedError, RejectedError
from tdxstack.verification.chains import stamp
from tdxstack.verification.quote import QuoteResult
from tdxstack.verification.result import Status
from tdxstack.verification.trust_vector import Tier, overall, trust_vector

EAR_PROFILE: Final = "tag:ietf.org,2026:rats/ear#04"
_TYPE: Final = "eat+jwt"
LIFETIME: Final = timedelta(hours=1)
"""How long a token counts, unless the caller says otherwise."""

MAX_SIZE: Final = 64 << 10
"""Bytes of a token."""

EXTENSION: Final = "tdxstack"
"""The claim, in each submodule, with what EAR has no claims for."""

_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384"}
_EDDSA: Final = ("EdDSA", "Ed25519")
"""The name that verifiers know, and that of RFC 9864."""

_KEY_HINT: Final = "keys are PEM, on P-256, P-384 or Ed25519; openssl genpkey -algorithm ed25519 makes one"
_MEASUREMENTS: Final = {
    True: ("mrenclave", "mrsigner", "report_data"),
    False: ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrconfigid", "mrowner", "mrownerconfig", "mrseam",
            "report_data"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key of the caller, and the JWS algorithm that goes with it."""

    key: ECKey | OKPKey
    algorithm: str

    @classmethod
    def from_pem(cls, pem: bytes) -> SigningKey:
        """Read an unencrypted private key. Raises `MalformedError`."""
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise MalformedError(f"token key: {error}", hint=_KEY_HINT) from None
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return cls(OKPKey.import_key(pem), _EDDSA[0])
        if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
            return cls(ECKey.import_key(pem), _CURVES[key.curve.name])
        raise MalformedError(f"token key: a {type(key).__name__} cannot sign tokens", hint=_KEY_HINT)


@dataclass(frozen=True, slots=True)
class Appraisal:
    """What a token reports. `nonce` is what the evidence was to bind; b"" if nothing was asked for."""

    result: QuoteResult
    policy_ids: tuple[str, ...]
    verified_at: datetime
    nonce: bytes = b""

    @property
    def is_nonce_bound(self) -> bool:
        """Whether a check has found the nonce in the evidence."""
        return any(
            check.id in ("td.nonce", "evidence.nonce") and check.status is Status.OK
            for check in self.result.checks
        )


def claims_of(appraisal: Appraisal, *, lifetime: timedelta = LIFETIME) -> dict[str, Any]:
    """The claims of the token, before it is signed.

    It counts as issued at the time that the evidence was verified as of: what was accepted as of another day
    makes no token for today.
    """
    issued = int(appraisal.verified_at.timestamp())
    label, submodule = _submodule(appraisal)
    return {
        "eat_profile": EAR_PROFILE,
        "iat": issued,
        "exp": issued + int(lifetime.total_seconds()),
        "ear_verifier_id": {"developer": "tdxstack", "build": f"tdxstack {__version__}"},
        "ear_status": submodule["ear_status"],
        "submods": {label: submodule},
    }


def sign_token(claims: Mapping[str, Any], key: SigningKey) -> str:
    """The claims as a JWT in compact form; the key's RFC 7638 thumbprint is its id."""
    header = {"alg": key.algorithm, "typ": _TYPE, "kid": key.key.thumbprint()}
    with warnings.catch_warnings():
        # RFC 9864 renames EdDSA, but verifiers do not know the new name yet.
        warnings.simplefilter("ignore", SecurityWarning)
        return jwt.encode(header, dict(claims), key.key, algorithms=[key.algorithm], default_type=None)


def verify_token(token: bytes, public_key_pem: bytes, *, time: datetime) -> dict[str, Any]:
    """The claims of a token of ours that `public_key_pem` signed and that counts at `time`.

    Raises `RejectedError` for another signature, an expired token or another profile, and `MalformedError`
    for what is no token or no public key.
    """
    key, algorithms = _public_key(public_key_pem)
    if len(token) > MAX_SIZE:
        raise MalformedError(f"token: {len(token)} bytes, at most {MAX_SIZE}", hint="this is not a token")
    claims = _checked_claims(token.strip(), key, algorithms)
    if claims.get("eat_profile") != EAR_PROFILE:
        raise RejectedError(
            f"the token's profile is {claims.get('eat_profile')!r}", hint=f"expected {EAR_PROFILE}"
        )
    begin, end = claims.get("iat"), claims.get("exp")
    if type(begin) is not int or type(end) is not int:
        raise RejectedError("the token does not say when it was issued and expires", hint="ask for another")
    if not begin <= time.timestamp() < end:
        raise RejectedError(
            f"the token counts from {_time(begin)} to {_time(end)}, not at {stamp(time)}",
            hint="ask for a new token",
        )
    return claims


def _checked_claims(token: bytes, key: ECKey | OKPKey, algorithms: list[str]) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)
            decoded = jwt.decode(token, key, algorithms=algorithms)
    except JoseError as error:
        if error.error in ("decode_error", "invalid_payload", "missing_header"):
            raise MalformedError(f"token: {error}", hint="a token is a JWT in compact form") from None
        raise RejectedError(
            f"the token is not signed by this key: {error}", hint="give the public key of the verifier"
        ) from None
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"token: {error}", hint="a token is a JWT in compact form") from None
    return dict(decoded.claims)


def _public_key(pem: bytes) -> tuple[ECKey | OKPKey, list[str]]:
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError(f"public key: {error}", hint="give the public key in PEM") from None
    if isinstance(key, ed25519.Ed25519PublicKey):
        return OKPKey.import_key(pem), list(_EDDSA)
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return ECKey.import_key(pem), [_CURVES[key.curve.name]]
    raise MalformedError(f"public key: a {type(key).__name__} cannot have signed a token", hint=_KEY_HINT)


def _submodule(appraisal: Appraisal) -> tuple[str, dict[str, Any]]:
    result = appraisal.result
    body = result.quote.body
    is_enclave = isinstance(body, SgxReportBody)
    vector = trust_vector(result)
    submodule: dict[str, Any] = {
        "ear_status": overall(vector, accepted=result.accepted).value,
        "ear_trustworthiness_vector": vector,
        "ear_appraisal_policy_ids": list(appraisal.policy_ids),
    }
    if appraisal.nonce and appraisal.is_nonce_bound:
        submodule["eat_nonce"] = base64.urlsafe_b64encode(appraisal.nonce).rstrip(b"=").decode()
    submodule[EXTENSION] = {
        "emulated": result.emulated,
        "verdict": result.verdict,
        "tcb_status": result.tcb.status.value if result.tcb else None,
        "tcb_date": stamp(result.tcb.date) if result.tcb and result.tcb.date else None,
        "advisory_ids": list(result.tcb.advisories) if result.tcb else [],
        "fmspc": result.pck.fmspc.hex() if result.pck else None,
        "failing_checks": [check.id for check in result.failures()],
        "measurements": {name: getattr(body, name).hex() for name in _MEASUREMENTS[is_enclave]},
    }
    return "sgx" if is_enclave else "tdx", submodule


def _time(seconds: int) -> str:
    try:
        return stamp(datetime.fromtimestamp(seconds, UTC))
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def is_emulated(claims: Mapping[str, Any]) -> bool:
    """Whether any submodule of a token says that it is about emulated evidence."""
    submodules = claims.get("submods")
    if not isinstance(submodules, dict):
        return False
    extensions = [one.get(EXTENSION) for one in submodules.values() if isinstance(one, dict)]
    return any(isinstance(one, dict) and one.get("emulated") is not False for one in extensions)


def tier_of(claims: Mapping[str, Any]) -> Tier:
    """The overall tier of a token's claims; `none` where it names none that is known."""
    status = claims.get("ear_status")
    return Tier(status) if isinstance(status, str) and status in set(Tier) else Tier.NONE
