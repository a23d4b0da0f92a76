"""TCB info and QE identity that should not be believed: offered for each other, doubled, or written oddly.

What the TCB signing key has signed is believed; these tests sign most of it genuinely, to see what the
readers make of it.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tdxstack.collateral.bundle import Collateral
from tdxstack.collateral.signed_json import SignedJson
from tdxstack.errors import MalformedError
from tests.synthetic.evidence import Workshop

TCB_INFO_CHECKS = {"tcb_info.freshness", "tcb_info.fmspc", "tcb.module", "tcb.status"}
QE_IDENTITY_CHECKS = {"qe_identity.freshness", "qe.identity", "qe.status"}


def inner(document: bytes, name: str) -> bytes:
    """The object that is signed."""
    return SignedJson.parse(document, name).body


def text_of(shop: Workshop, **members: Any) -> str:
    """The platform's TCB info as text, before it is signed."""
    return json.dumps({**SignedJson.parse(shop.pki.signed.tcb_info, "tcbInfo").value, **members})


# One document in the place of another.


def test_documents_do_not_stand_in_for_each_other(shop: Workshop) -> None:
    """The signature of each is genuine under either name; the contents are not what the name says."""
    info = inner(shop.pki.signed.tcb_info, "tcbInfo")
    identity = inner(shop.pki.signed.qe_identity, "enclaveIdentity")
    swapped = shop.evidence(
        tcb_info=shop.signed_document("tcbInfo", identity),
        qe_identity=shop.signed_document("enclaveIdentity", info),
    )
    assert set(swapped.failing()) == TCB_INFO_CHECKS | QE_IDENTITY_CHECKS
    exchanged = shop.evidence(tcb_info=shop.pki.signed.qe_identity, qe_identity=shop.pki.signed.tcb_info)
    signatures = {"tcb_info.signature", "qe_identity.signature"}
    assert set(exchanged.failing()) == TCB_INFO_CHECKS | QE_IDENTITY_CHECKS | signatures


@pytest.mark.parametrize("kind", ["SGX", "tdx", "TDX ", "", "QE"])
def test_tcb_info_of_another_technology_serves_no_td(shop: Workshop, kind: str) -> None:
    failing = set(shop.evidence(tcb_info=shop.tcb_info(id=kind)).failing())
    assert failing >= {"tcb_info.fmspc", "tcb.module", "tcb.status"}


@pytest.mark.parametrize("kind", ["QE", "QVE", "QAE", "td_qe", "TD_QE "])
def test_identities_of_other_enclaves_serve_no_td(shop: Workshop, kind: str) -> None:
    assert shop.evidence(qe_identity=shop.qe_identity(id=kind)).failing() == ["qe.identity"]


@pytest.mark.parametrize("version", [0, 1, 2, 4, "3", 3.0, True])
def test_other_versions_are_not_guessed_at(shop: Workshop, version: object) -> None:
    assert set(shop.evidence(tcb_info=shop.tcb_info(version=version)).failing()) == TCB_INFO_CHECKS
    if version != 2:
        evidence = shop.evidence(qe_identity=shop.qe_identity(version=version))
        assert set(evidence.failing()) == QE_IDENTITY_CHECKS


def test_an_older_evaluation_does_not_pass_for_a_newer(shop: Workshop) -> None:
    """Each document for itself: a new one of one kind does not lift an old one of the other."""
    policy = type(shop.evidence().policy)(allow_emulated=True, minimum_evaluation_number=20)
    assert shop.evidence(policy=policy).failing() == []
    for number in (19, 0):
        old_info = shop.tcb_info(tcbEvaluationDataNumber=number)
        old_identity = shop.qe_identity(tcbEvaluationDataNumber=number)
        assert shop.evidence(tcb_info=old_info, policy=policy).failing() == ["tcb_info.freshness"]
        assert shop.evidence(qe_identity=old_identity, policy=policy).failing() == ["qe_identity.freshness"]


# What is signed and what is read.


def outer(*members: tuple[str, bytes | str]) -> bytes:
    """A document with these members, in this order, keys written as given."""
    texts = [
        f'"{key}":{value.decode() if isinstance(value, bytes) else json.dumps(value)}'
        for key, value in members
    ]
    return ("{" + ",".join(texts) + "}").encode()


def test_a_key_that_occurs_twice_is_refused(shop: Workshop) -> None:
    """Whichever is read and whichever was signed, also when one of them is written otherwise."""
    signed = SignedJson.parse(shop.pki.signed.tcb_info, "tcbInfo")
    better = text_of(shop, tcbLevels=[]).encode()
    signature = signed.signature.hex()
    for twin in ("tcbInfo", "\\u0074cbInfo", "tcb\\u0049nfo"):
        for first, second in ((signed.body, better), (better, signed.body), (signed.body, signed.body)):
            document = outer(("tcbInfo", first), (twin, second), ("signature", signature))
            assert "tcb_info.signature" in shop.evidence(tcb_info=document).failing()
    document = outer(("tcbInfo", signed.body), ("signature", "00" * 64), ("signature", signature))
    assert "tcb_info.signature" in shop.evidence(tcb_info=document).failing()


def test_other_members_beside_the_signed_one_are_refused(shop: Workshop) -> None:
    signed = SignedJson.parse(shop.pki.signed.tcb_info, "tcbInfo")
    for key in ("tcbinfo", "TCBINFO", "tcbInfo ", "\uff54cbInfo", "tcbInfo\\u0000"):
        document = outer(("tcbInfo", signed.body), (key, b"{}"), ("signature", signed.signature.hex()))
        assert "tcb_info.signature" in shop.evidence(tcb_info=document).failing()
        document = outer((key, signed.body), ("signature", signed.signature.hex()))
        assert "tcb_info.signature" in shop.evidence(tcb_info=document).failing()


def test_a_member_that_occurs_twice_in_what_is_signed_is_refused(shop: Workshop) -> None:
    """Other readers may take the other one. Intel signs no such document."""
    body = text_of(shop)[:-1] + ', "fmspc": "FE5444580000"}'
    failing = set(shop.evidence(tcb_info=shop.signed_document("tcbInfo", body.encode())).failing())
    assert failing >= {"tcb_info.fmspc", "tcb.status"}
    levels = '{"tcbStatus": "OutOfDate", "tcbStatus": "UpToDate"'
    body = text_of(shop).replace('{"tcb"', levels + ', "tcb"', 1)
    assert levels in body
    failing = set(shop.evidence(tcb_info=shop.signed_document("tcbInfo", body.encode())).failing())
    assert failing >= {"tcb_info.fmspc", "tcb.status"}


def test_a_doubled_key_is_found_in_linear_time(shop: Workshop) -> None:
    """The last of 100,000: to count each of them anew would take minutes."""
    crowd = ",".join(f'"{number}":0' for number in range(100_000))
    document = outer(("tcbInfo", f'{{{crowd},"99999":1}}'.encode()), ("signature", "00" * 64))
    with pytest.raises(MalformedError, match="'99999' twice"):
        SignedJson.parse(document, "tcbInfo")


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.replace(b'":', b'" :', 1),
        lambda body: body + b" ",
        lambda body: body.replace(b"TDX", b"\\u0054DX", 1),
        lambda body: body.replace(b"{", b"{ ", 1),
        lambda body: body.replace(b"FE5444580000", b"fe5444580000", 1),
    ],
)
def test_what_is_signed_is_bytes(shop: Workshop, change: Any) -> None:
    """The same object in other words is not the one that was signed."""
    signed = SignedJson.parse(shop.pki.signed.tcb_info, "tcbInfo")
    changed = change(signed.body)
    assert changed != signed.body
    document = outer(("tcbInfo", changed), ("signature", signed.signature.hex()))
    failing = shop.evidence(tcb_info=document).failing()
    # White space after the object is not part of it, nor of what was signed.
    assert failing == ([] if changed.strip() == signed.body else ["tcb_info.signature"])


# Values that are not what they look like.


@pytest.mark.parametrize(
    "value",
    ["1e1", "13.0", "-1", "true", '"13"', "null", "[13]", "65536", "1" * 400, "9" * 5000, "NaN", "Infinity"],
)
def test_numbers_are_numbers(shop: Workshop, value: str) -> None:
    body = text_of(shop).replace('"pcesvn": 13', f'"pcesvn": {value}', 1)
    assert value in body
    failing = set(shop.evidence(tcb_info=shop.signed_document("tcbInfo", body.encode())).failing())
    assert failing >= TCB_INFO_CHECKS


@pytest.mark.parametrize(
    "fmspc",
    [
        "FE54445800",
        "FE544458000000",
        "0xFE5444580000",
        "FE5444580000 ",
        "FE 54 44 58 00 00",
        "FE54-4458-0000",
        "\uff26E5444580000",
        "\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660",
        "",
    ],
)
def test_octets_are_hexadecimal_digits_and_nothing_else(shop: Workshop, fmspc: str) -> None:
    failing = set(shop.evidence(tcb_info=shop.tcb_info(fmspc=fmspc)).failing())
    assert failing == TCB_INFO_CHECKS


@pytest.mark.parametrize(
    "time",
    [
        "2026-03-30",
        "2026-03-30T00:00:00",
        "2026-03-30T00:00:00+00:00",
        "2026-03-30T00:00:00.000Z",
        "2026-03-30 00:00:00Z",
        "2026-03-30t00:00:00z",
        "2026-02-30T00:00:00Z",
        "2026-03-30T24:00:01Z",
        "2026-03-30T00:60:00Z",
        "2026-W14-1T00:00:00Z",
        "20260330T000000Z",
        "+026-03-30T00:00:00Z",
        "\u0662026-03-30T00:00:00Z",
        "9999-99-99T99:99:99Z",
        "0000-01-01T00:00:00Z",
    ],
)
def test_times_have_one_form(shop: Workshop, time: str) -> None:
    failing = set(shop.evidence(tcb_info=shop.tcb_info(nextUpdate=time)).failing())
    assert failing == TCB_INFO_CHECKS


@pytest.mark.parametrize(
    "status", ["uptodate", "UpToDate ", "UPTODATE", "TDRelaunchAdvised", "NotSupported", "", "OK"]
)
def test_unknown_statuses_are_not_guessed_at(shop: Workshop, status: str) -> None:
    def edit(value: dict[str, Any]) -> None:
        value["tcbLevels"][0]["tcbStatus"] = status

    assert set(shop.evidence(tcb_info=shop.tcb_info(edit)).failing()) == TCB_INFO_CHECKS


@pytest.mark.parametrize("count", [0, 15, 17])
@pytest.mark.parametrize("name", ["sgxtcbcomponents", "tdxtcbcomponents"])
def test_components_are_sixteen(shop: Workshop, name: str, count: int) -> None:
    def edit(value: dict[str, Any]) -> None:
        value["tcbLevels"][0]["tcb"][name] = [{"svn": 0}] * count

    assert set(shop.evidence(tcb_info=shop.tcb_info(edit)).failing()) == TCB_INFO_CHECKS


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.decode().encode("utf-16"),
        lambda text: text.decode().encode("utf-32"),
        lambda text: text.replace(b"TDX_01", b"TDX_\xff1"),
        lambda text: text + text,
        lambda text: text + b"{}",
        lambda text: b"[" * 100_000 + text,
        lambda text: text.replace(b"{", b"[", 1),
        lambda text: text[:-1] + b",}",
        lambda text: text.replace(b'"', b"'"),
        lambda text: b"/* */" + text,
    ],
)
def test_what_is_not_json_is_refused(shop: Workshop, damage: Any) -> None:
    document = damage(shop.pki.signed.tcb_info)
    assert set(shop.evidence(tcb_info=document).failing()) == TCB_INFO_CHECKS | {"tcb_info.signature"}
    with pytest.raises(MalformedError):
        SignedJson.parse(document, "tcbInfo")


@pytest.mark.parametrize("digits", ["9" * 5000, "1e999999999", "-0", "[" * 5000])
def test_bundles_with_monstrous_values_are_malformed(digits: str) -> None:
    with pytest.raises(MalformedError):
        Collateral.from_json(b'{"format": "tdxstack collateral 1", "pck_crl": ' + digits.encode() + b"}")


# The quoting enclave.


@pytest.mark.parametrize(
    ("changes", "good"),
    [
        ({"mrsigner": bytes(32)}, False),
        ({"isv_prod_id": 1}, False),
        ({"miscselect": 1}, False),
        ({"flags": 0x13}, False),
        ({"flags": 0x10}, False),
        ({"mrenclave": bytes(32)}, True),
        ({"xfrm": 3}, True),
    ],
)
def test_the_quoting_enclave_is_the_one_described(
    shop: Workshop, changes: dict[str, Any], good: bool
) -> None:
    assert shop.evidence(shop.quote(qe=changes)).failing() == ([] if good else ["qe.identity"])


def test_a_quoting_enclave_that_can_be_debugged_vouches_for_nothing(shop: Workshop) -> None:
    """Even where an identity does not ask for the flag: whoever debugs it has its attestation key."""
    identity = shop.qe_identity(attributesMask="00" * 16, attributes="00" * 16)
    assert shop.evidence(qe_identity=identity).failing() == []
    quote = shop.quote(qe={"flags": shop.platform.qe_flags | 2})
    assert shop.evidence(quote, qe_identity=identity).failing() == ["qe.identity"]
