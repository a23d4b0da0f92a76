"""Intel's PCS client tool: the JSON file that it calls `platform_collaterals.json`, for many platforms.

Source: Intel DCAP, `tools/PcsClientTool/pcsclient.py` (what it writes) and the PCCS's schema of the file. The
tool parses and rewrites TCB info, so the signed bytes are gone; as in Intel's PCCS they are taken to be the
compact form with the keys in the order they have.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote, unquote

from cryptography import x509

from tdxstack.collateral.bundle import QE_IDENTITY, TCB_INFO, Collateral, crl_der
from tdxstack.collateral.platform_id import (
    PLATFORM_CA,
    PROCESSOR_CA,
    SGX,
    TDX,
    Subject,
    issued_at,
    subjects_of,
)
from tdxstack.collateral.signed_json import SignedJson
from tdxstack.errors import MalformedError, UsageError

API_VERSION: Final = 4

MAX_CHAIN: Final = 1 << 18
"""Characters of an escaped certificate chain; Intel's have about 5,000."""

_PCK_CHAINS = "SGX-PCK-Certificate-Issuer-Chain"
_TCB_CHAIN, _OLD_TCB_CHAIN = "TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"
_QE_CHAIN = "SGX-Enclave-Identity-Issuer-Chain"
_CRLS = {PLATFORM_CA: "platformCrl", PROCESSOR_CA: "processorCrl"}
_IDENTITIES = {TDX: "tdqeidentity", SGX: "qeidentity"}
_UPDATES = ("", "_early")
_HINT = "give the file that Intel's PCS client tool wrote, version 4 of its API, with TCB infos in it"


def read(document: Mapping[str, Any]) -> tuple[Collateral, ...]:
    """The collateral of every platform in the file: for each FMSPC the standard update before the early one.

    The file does not say which CA an FMSPC belongs to; there is one collateral for each CA that it knows.
    Raises `MalformedError`.
    """
    collaterals = _object(document, "collaterals")
    found = tuple(_each(collaterals))
    if not found:
        raise MalformedError("the collateral holds no TCB info of any platform", hint=_HINT)
    return found


def _each(collaterals: Mapping[str, Any]) -> Iterator[Collateral]:
    certificates, crls = _object(collaterals, "certificates"), _object(collaterals, "pckcacrl")
    pck_chains = _object(certificates, _PCK_CHAINS)
    tcb_chain = _chain(_text(certificates, _TCB_CHAIN if _TCB_CHAIN in certificates else _OLD_TCB_CHAIN))
    qe_chain = _chain(_text(certificates, _QE_CHAIN))
    root_ca_crl = crl_der(_text(collaterals, "rootcacrl").encode())
    cas = {
        ca: (_chain(_text(pck_chains, ca.upper())), crl_der(_text(crls, name).encode()))
        for ca, name in _CRLS.items()
        if pck_chains.get(ca.upper()) and crls.get(name)
    }
    identities = {
        key: _signed(collaterals, key, QE_IDENTITY)
        for key in (identity + update for identity in _IDENTITIES.values() for update in _UPDATES)
        if collaterals.get(key)
    }
    infos = collaterals.get("tcbinfos")
    if not isinstance(infos, list) or not all(isinstance(info, dict) for info in infos):
        raise MalformedError("collateral: tcbinfos is not a list of objects", hint=_HINT)
    for info in infos:
        for tee, identity in _IDENTITIES.items():
            for update in _UPDATES:
                key = f"{tee.lower()}_tcbinfo{update}"
                if not info.get(key):
                    continue
                tcb_info = _signed(info, key, TCB_INFO)
                for pck_chain, pck_crl in cas.values():
                    yield Collateral(
                        pck_crl_issuer_chain=pck_chain,
                        root_ca_crl=root_ca_crl,
                        pck_crl=pck_crl,
                        tcb_info_issuer_chain=tcb_chain,
                        tcb_info=tcb_info,
                        qe_identity_issuer_chain=qe_chain,
                        qe_identity=identities.get(identity + update, b""),
                    )


def _signed(members: Mapping[str, Any], key: str, name: str) -> bytes:
    """A signed document, kept as the text that the PCS sent or parsed and written again."""
    value = members[key]
    if isinstance(value, str):
        return SignedJson.parse(_text(members, key).encode(), name).to_bytes()
    return SignedJson.parse(_encoded(_compact(value, key), key), name).to_bytes()


def _compact(value: object, key: str) -> str:
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"collateral: {key}: {error}", hint=_HINT) from error


def write(entries: Iterable[Collateral]) -> bytes:
    """One file for all of `entries`. Of items that they share the newest is taken.

    Two TCB evaluations fit, the lower as `standard` and the higher as `early` update. Raises `UsageError`
    where there are more, `MalformedError` for items that cannot be read.
    """
    everything = list(entries)
    subjects = list(zip(subjects_of(everything), everything, strict=True))
    numbers = sorted({subject.evaluation_number for subject, _ in subjects})
    if not 1 <= len(numbers) <= len(_UPDATES):
        raise UsageError(
            f"Intel's form has room for two TCB evaluations, not for {len(numbers)}: {numbers}",
            hint="write a file for each evaluation, or use --to own",
        )
    updates = dict(zip(numbers, _UPDATES, strict=False))
    newest = max(everything, key=lambda collateral: issued_at(collateral.tcb_info, TCB_INFO))
    document = {
        "platforms": [],
        "collaterals": {
            "version": API_VERSION,
            "pck_certs": [],
            "tcbinfos": _tcb_infos(subjects, updates),
            "pckcacrl": _pck_crls(subjects),
            "qeidentity": "",
            "tdqeidentity": "",
            "qveidentity": "",
            **_identities(subjects, updates),
            "certificates": {
                _PCK_CHAINS: _pck_chains(subjects),
                _TCB_CHAIN: _escaped(newest.tcb_info_issuer_chain),
                _QE_CHAIN: _escaped(newest.qe_identity_issuer_chain),
            },
            "rootcacrl": max((collateral.root_ca_crl for collateral in everything), key=_crl_start).hex(),
        },
    }
    return json.dumps(document, indent=2).encode() + b"\n"


_Entries = list[tuple[Subject, Collateral]]


def _tcb_infos(subjects: _Entries, updates: Mapping[int, str]) -> list[dict[str, Any]]:
    infos: dict[bytes, dict[str, Any]] = {}
    for subject, collateral in sorted(subjects, key=lambda entry: issued_at(entry[1].tcb_info, TCB_INFO)):
        fmspc = subject.platform.fmspc
        info = infos.setdefault(fmspc, {"fmspc": fmspc.hex().upper()})
        key = f"{subject.platform.tee.lower()}_tcbinfo{updates[subject.evaluation_number]}"
        document = SignedJson.parse(collateral.tcb_info, TCB_INFO)
        info[key] = {TCB_INFO: document.value, "signature": document.signature.hex()}
        if _compact(document.value, key).encode() != document.body:
            raise UsageError(
                f"the signed bytes of the TCB info of {subject} would not survive Intel's form",
                hint="they are not the compact JSON that Intel signs; use --to own",
            )
    return [infos[fmspc] for fmspc in sorted(infos)]


def _identities(subjects: _Entries, updates: Mapping[int, str]) -> dict[str, str]:
    found: dict[str, bytes] = {}
    for subject, collateral in sorted(
        subjects, key=lambda entry: issued_at(entry[1].qe_identity, QE_IDENTITY)
    ):
        key = _IDENTITIES[subject.platform.tee] + updates[subject.evaluation_number]
        found[key] = collateral.qe_identity
    return {key: document.rstrip(b"\0").decode() for key, document in found.items()}


def _pck_crls(subjects: _Entries) -> dict[str, str]:
    by_ca = sorted(subjects, key=lambda entry: _crl_start(entry[1].pck_crl))
    return {_CRLS[subject.platform.ca]: collateral.pck_crl.hex() for subject, collateral in by_ca}


def _pck_chains(subjects: _Entries) -> dict[str, str]:
    return {
        subject.platform.ca.upper(): _escaped(collateral.pck_crl_issuer_chain)
        for subject, collateral in subjects
    }


def _crl_start(der: bytes) -> datetime:
    try:
        return x509.load_der_x509_crl(der).last_update_utc
    except (ValueError, TypeError) as error:
        raise MalformedError(f"CRL: {error}", hint=_HINT) from error


def _object(members: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = members.get(key)
    if not isinstance(value, dict):
        raise MalformedError(f"collateral: {key} is {type(value).__name__}, not an object", hint=_HINT)
    return value


def _text(members: Mapping[str, Any], key: str) -> str:
    value = members.get(key)
    if not isinstance(value, str) or not value:
        raise MalformedError(f"collateral: {key} is missing or not a string", hint=_HINT)
    _encoded(value, key)
    return value


def _encoded(text: str, key: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise MalformedError(f"collateral: {key} is not text: {error}", hint=_HINT) from error


def _chain(escaped: str) -> bytes:
    if len(escaped) > MAX_CHAIN:
        raise MalformedError(
            f"collateral: a certificate chain has {len(escaped)} characters, at most {MAX_CHAIN} are read",
            hint=_HINT,
        )
    return unquote(escaped).encode()


def _escaped(chain: bytes) -> str:
    return quote(chain.rstrip(b"\0"), safe="")
