from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.collateral import intel_tool
from tdxstack.collateral.bundle import TCB_INFO, Collateral
from tdxstack.collateral.json_text import MAX_CONTAINERS
from tdxstack.collateral.platform_id import PlatformId, subject_of
from tdxstack.collateral.reading import MAX_SIZE, newest_of_each, read_all, read_collateral
from tdxstack.collateral.signed_json import SignedJson
from tdxstack.collateral.writing import DCAP_QVL, write_collateral
from tdxstack.errors import MalformedError, UsageError
from tests.recorded_boot import Keys, pki_in, synthetic_boot, with_qe_identity, with_tcb_info

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
OTHER = bytes.fromhex("00806f050000")

Make = Callable[..., Collateral]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Collateral of the emulated platform, or of others."""
    pki = pki_in(tmp_path_factory.mktemp("emulated"), NOW)
    boot, keys = synthetic_boot(pki, NOW), Keys.of(pki)

    identities: dict[object, bytes] = {}

    def collateral(
        fmspc: bytes = b"", number: int = 20, issued: datetime = NOW, tee: str = "TDX"
    ) -> Collateral:
        common = {"tcbEvaluationDataNumber": number, "issueDate": issued.strftime("%Y-%m-%dT%H:%M:%SZ")}
        named = {"id": tee} | ({"fmspc": fmspc.hex().upper()} if fmspc else {})
        made = with_tcb_info(boot, keys, lambda value: value.update(common | named)).collateral
        # Signatures differ each time; platforms share one identity.
        identity = with_qe_identity(boot, keys, lambda value: value.update(common)).collateral.qe_identity
        return replace(made, qe_identity=identities.setdefault((number, issued), identity))

    return collateral


def test_subject_says_what_collateral_is_for(make: Make) -> None:
    subject = subject_of(make(OTHER, 18))
    assert subject.platform == PlatformId(OTHER, "platform", "TDX")
    assert str(subject) == "TDX FMSPC 00806f050000, platform CA, TCB evaluation 18"


@pytest.mark.parametrize("form", ["own", "dcap-qvl", "intel"])
def test_each_form_is_recognised_and_comes_back_unchanged(make: Make, form: str) -> None:
    collateral = make()
    forms = {
        "own": collateral.to_json(),
        "dcap-qvl": collateral.to_dcap_qvl_json(),
        "intel": intel_tool.write([collateral]),
    }
    written = forms[form]
    assert read_collateral(written) == collateral
    assert read_all(written) == (collateral,)


@pytest.mark.parametrize("write", [write_collateral, intel_tool.write])
def test_one_of_several_platforms_is_chosen(make: Make, write: Callable[[list[Collateral]], bytes]) -> None:
    first, second = make(), make(OTHER)
    file = write([first, second])
    assert set(read_all(file)) == {first, second}
    assert read_collateral(file, PlatformId(OTHER, "platform")) == second
    with pytest.raises(UsageError, match="for 2 platforms") as caught:
        read_collateral(file)
    assert "00806f050000" in caught.value.hint
    for absent in (
        PlatformId(bytes(6), "platform"),
        PlatformId(OTHER, "processor"),
        PlatformId(OTHER, "platform", "SGX"),
    ):
        with pytest.raises(
            UsageError, match=f"nothing for {absent.tee} FMSPC {absent.fmspc.hex()}, {absent.ca}"
        ):
            read_collateral(file, absent)


@pytest.mark.parametrize("write", [write_collateral, intel_tool.write])
def test_evaluations_of_one_platform(make: Make, write: Callable[[list[Collateral]], bytes]) -> None:
    standard, early = make(number=19), make(number=20)
    file = write([standard, early])
    assert read_collateral(file) == standard
    assert read_collateral(file, evaluation_number=20) == early
    with pytest.raises(UsageError, match="TCB evaluation 18"):
        read_collateral(file, evaluation_number=18)


def test_the_only_collateral_is_given_whatever_it_is_for(make: Make) -> None:
    collateral = replace(make(), tcb_info=b"damaged")
    assert read_collateral(collateral.to_json(), PlatformId(OTHER, "processor")) == collateral


def test_intel_file_holds_the_newest_of_what_platforms_share(make: Make) -> None:
    old, new = make(issued=NOW - timedelta(days=1)), make(OTHER, issued=NOW)
    for order in ([old, new], [new, old]):
        read = read_collateral(
            intel_tool.write(order), PlatformId(subject_of(old).platform.fmspc, "platform")
        )
        assert (read.tcb_info, read.qe_identity) == (old.tcb_info, new.qe_identity)


def test_intel_file_has_room_for_two_evaluations(make: Make) -> None:
    with pytest.raises(UsageError, match=r"not for 3: \[18, 19, 20\]"):
        intel_tool.write([make(number=number) for number in (18, 19, 20)])
    with pytest.raises(UsageError, match="not for 0"):
        intel_tool.write([])


def test_intel_file_keeps_sgx_apart(make: Make) -> None:
    tdx, sgx = make(), make(tee="SGX")
    file = intel_tool.write([tdx, sgx])
    info = json.loads(file)["collaterals"]["tcbinfos"][0]
    assert set(info) == {"fmspc", "tdx_tcbinfo", "sgx_tcbinfo"}
    assert read_collateral(file, replace(subject_of(sgx).platform)) == sgx


def test_intel_file_as_the_tool_writes_it(make: Make) -> None:
    """With platforms and their PCK certificates, spaces in the JSON, and chains in the escapes of headers."""
    collateral = make()
    document = json.loads(intel_tool.write([collateral]))
    document["platforms"] = [{"qe_id": "00" * 16, "pce_id": "0000"}]
    chains = document["collaterals"]["certificates"]
    assert "-----BEGIN%20CERTIFICATE-----%0A" in chains["TCB-Info-Issuer-Chain"]
    # The tool knows a processor CRL but, with a platform list, only the chains of the CAs in that list.
    document["collaterals"]["pckcacrl"]["processorCrl"] = document["collaterals"]["pckcacrl"]["platformCrl"]
    chains["SGX-TCB-Info-Issuer-Chain"] = chains.pop("TCB-Info-Issuer-Chain")
    assert read_all(json.dumps(document).encode()) == (collateral,)


def test_intel_file_cannot_hold_what_is_not_compact(make: Make) -> None:
    collateral = make()
    signed = SignedJson.parse(collateral.tcb_info, TCB_INFO)
    spaced = SignedJson.of_parts(TCB_INFO, " ".join([signed.body.decode()[:-1], "}"]), signed.signature.hex())
    with pytest.raises(UsageError, match="would not survive"):
        intel_tool.write([replace(collateral, tcb_info=spaced.to_bytes())])


def break_intel(document: dict[str, Any], path: str, value: object) -> bytes:
    *parents, last = path.split(".")
    at: Any = document
    for name in parents:
        at = at[int(name) if name.isdigit() else name]
    at[last] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize("value", [None, 1, [], "\ud800", [1]])
@pytest.mark.parametrize(
    "path",
    [
        "collaterals",
        "collaterals.tcbinfos",
        "collaterals.certificates",
        "collaterals.certificates.TCB-Info-Issuer-Chain",
        "collaterals.certificates.SGX-Enclave-Identity-Issuer-Chain",
        "collaterals.certificates.SGX-PCK-Certificate-Issuer-Chain",
        "collaterals.certificates.SGX-PCK-Certificate-Issuer-Chain.PLATFORM",
        "collaterals.pckcacrl",
        "collaterals.pckcacrl.platformCrl",
        "collaterals.rootcacrl",
        "collaterals.tcbinfos.0.tdx_tcbinfo",
    ],
)
def test_damaged_intel_file_is_malformed(make: Make, path: str, value: object) -> None:
    document = json.loads(intel_tool.write([make()]))
    with pytest.raises(MalformedError) as caught:
        read_all(break_intel(document, path, value))
    assert caught.value.hint


def test_chain_in_an_intel_file_is_bounded(make: Make) -> None:
    document = json.loads(intel_tool.write([make()]))
    with pytest.raises(MalformedError, match="300000 characters"):
        read_all(break_intel(document, "collaterals.certificates.TCB-Info-Issuer-Chain", "%20" * 100_000))


def test_crowds_in_strings_are_no_crowds(make: Make) -> None:
    entries = [make()] * 300
    file = write_collateral(entries)
    assert file.count(b"{") > MAX_CONTAINERS // 10
    assert len(read_all(file)) == 300


def test_signed_document_with_crowds_is_malformed() -> None:
    with pytest.raises(MalformedError, match="too many"):
        SignedJson.of_parts(TCB_INFO, f"[{'[],' * 250_000}0]", "ab" * 64)


def test_missing_identity_in_an_intel_file_is_left_to_verification(make: Make) -> None:
    document = json.loads(intel_tool.write([make()]))
    assert read_all(break_intel(document, "collaterals.tdqeidentity", ""))[0].qe_identity == b""


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"collaterals":{}}',
        b'{"format":"tdxstack collateral set 1"}',
        b'{"format":"tdxstack collateral set 1","collateral":[]}',
        b'{"format":"tdxstack collateral set 1","collateral":[1]}',
        b'{"format":"tdxstack collateral set 1","collateral":[{}]}',
        b" " * (MAX_SIZE + 1),
        b"{" * 300_000,
        b'{"a":[' + b"[]," * 250_000 + b"0]}",
        b'{"a":[' + b"0," * 1_100_000 + b"0]}",
    ],
)
def test_other_files_are_malformed(text: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        read_all(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    "change",
    [{"id": "SNP"}, {"fmspc": "00"}, {"fmspc": 1}, {"fmspc": "zz" * 6}, {"tcbEvaluationDataNumber": "18"}],
)
def test_subject_of_damaged_collateral_is_malformed(make: Make, change: dict[str, object]) -> None:
    collateral = make()
    value = SignedJson.parse(collateral.tcb_info, TCB_INFO)
    body = json.dumps(value.value | change)
    damaged = SignedJson.of_parts(TCB_INFO, body, value.signature.hex()).to_bytes()
    with pytest.raises(MalformedError):
        subject_of(replace(collateral, tcb_info=damaged))


def test_crl_must_be_a_pck_ca_s(make: Make) -> None:
    collateral = make()
    for crl in (collateral.root_ca_crl, b"", b"30"):
        with pytest.raises(MalformedError, match="PCK CRL"):
            subject_of(replace(collateral, pck_crl=crl))


@pytest.mark.parametrize(
    ("fmspc", "ca", "tee"), [(b"", "platform", "TDX"), (OTHER, "root", "TDX"), (OTHER, "platform", "SNP")]
)
def test_platform_id_must_make_sense(fmspc: bytes, ca: str, tee: str) -> None:
    with pytest.raises(UsageError) as caught:
        PlatformId(fmspc, ca, tee)
    assert caught.value.hint


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "collaterals",
                    "certificates",
                    "pckcacrl",
                    "tcbinfos",
                    "tdx_tcbinfo",
                    "tcbInfo",
                    "format",
                    "collateral",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(JSON)
def test_any_json_gives_collateral_or_malformed(value: object) -> None:
    try:
        read_all(json.dumps(value).encode())
    except MalformedError as error:
        assert error.hint


def test_files_keep_their_order(make: Make) -> None:
    entries = [make(OTHER, number) for number in (20, 18, 19)]
    assert read_all(write_collateral(entries)) == tuple(entries)


def test_newest_of_each_platform_is_kept(make: Make) -> None:
    old, new, other = make(issued=NOW - timedelta(days=1)), make(issued=NOW), make(OTHER)
    assert newest_of_each([old, other, new]) == (new, other)
    assert newest_of_each([new, old]) == (new,)
    assert newest_of_each([]) == ()


def test_dcap_qvl_form_has_room_for_one(make: Make) -> None:
    with pytest.raises(UsageError, match="one platform, not 2"):
        write_collateral([make(), make(OTHER)], DCAP_QVL)
    with pytest.raises(UsageError, match="no collateral to write"):
        write_collateral([])
