from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdxstack.collateral.signed_json import SignedJson
from tdxstack.errors import MalformedError
from tdxstack.quoting import tcb
from tdxstack.quoting.authority import new_key
from tdxstack.quoting.platform import EmulatedPlatform
from tdxstack.verification.qe_identity import QeIdentity
from tdxstack.verification.tcb_info import TcbInfo, TcbStatus

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def value(name: str) -> dict[str, Any]:
    make = tcb.tcb_info if name == "tcbInfo" else tcb.qe_identity
    inner = make(EmulatedPlatform(), NOW, timedelta(days=30))
    return SignedJson.parse(tcb.signed_document(name, inner, new_key()), name).value


TCB_INFO, QE_IDENTITY = value("tcbInfo"), value("enclaveIdentity")


def test_tcb_info_is_read_whole() -> None:
    info = TcbInfo.parse(TCB_INFO)
    platform = EmulatedPlatform()
    assert (info.id, info.fmspc, info.pce_id) == ("TDX", platform.fmspc, platform.pce_id)
    assert (info.issue_date, info.next_update) == (NOW, NOW + timedelta(days=30))
    assert info.levels[0].sgx_svns == platform.cpusvn
    assert info.levels[0].tdx_svns == platform.tee_tcb_svn
    assert info.levels[0].status is TcbStatus.UP_TO_DATE
    assert {module.id for module in info.module_identities} == {"TDX_01", "TDX_03"}


def test_qe_identity_is_read_whole() -> None:
    identity = QeIdentity.parse(QE_IDENTITY)
    platform = EmulatedPlatform()
    assert (identity.id, identity.mrsigner) == ("TD_QE", platform.qe_mrsigner)
    assert identity.miscselect_mask == 0xFFFFFFFF
    assert [identity.level(svn) for svn in (7, 8)] == [identity.levels[0]] * 2
    assert identity.level(6) == identity.levels[1]
    assert identity.level(0) is None


def test_miscselect_is_little_endian() -> None:
    identity = QeIdentity.parse({**QE_IDENTITY, "miscselect": "01000000"})
    assert identity.miscselect == 1


@pytest.mark.parametrize("name", sorted({*TCB_INFO} - {"tcbType"}))
@pytest.mark.parametrize("wrong", [None, -1, 2**40, True, 1.5, "text", [1], {"a": 1}], ids=repr)
def test_wrong_members_of_tcb_info_are_malformed(name: str, wrong: object) -> None:
    with pytest.raises(MalformedError) as caught:
        TcbInfo.parse({**TCB_INFO, name: wrong})
    assert caught.value.hint


@pytest.mark.parametrize("name", sorted(QE_IDENTITY))
@pytest.mark.parametrize("wrong", [None, -1, 2**40, True, 1.5, [1], {"a": 1}], ids=repr)
def test_wrong_members_of_qe_identity_are_malformed(name: str, wrong: object) -> None:
    with pytest.raises(MalformedError):
        QeIdentity.parse({**QE_IDENTITY, name: wrong})


@pytest.mark.parametrize(
    "time",
    [
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:00+00:00",
        "2026-13-01T00:00:00Z",
        "2026-W01-1T00:00:00Z",
        "2026-01-01 00:00:00Z",
    ],
)
def test_times_have_one_form(time: str) -> None:
    with pytest.raises(MalformedError, match="issueDate"):
        TcbInfo.parse({**TCB_INFO, "issueDate": time})


def edited(path: tuple[str | int, ...], new: object) -> dict[str, Any]:
    document = copy.deepcopy(TCB_INFO)
    target: Any = document
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = new
    return document


@pytest.mark.parametrize(
    ("path", "new", "said"),
    [
        (("version",), 2, "version 2"),
        (("id",), "QE", "id 'QE'"),
        (("tcbLevels", 0, "tcbStatus"), "TDRelaunchAdvised", "TDRelaunchAdvised"),
        (("tcbLevels", 0, "tcbStatus"), "Splendid", "Splendid"),
        (("tcbLevels", 0, "tcb", "sgxtcbcomponents"), [{"svn": 1}] * 15, "15 components"),
        (("tcbLevels", 0, "tcb", "sgxtcbcomponents", 3, "svn"), 256, "svn is 256"),
        (("tcbLevels", 0, "tcb", "sgxtcbcomponents", 3, "type"), 7, "type is 7"),
        (("tcbLevels", 0, "tcb", "pcesvn"), 65536, "pcesvn is 65536"),
        (("tcbLevels", 0, "advisoryIDs"), "SA", "advisoryIDs"),
        (
            ("tdxModuleIdentities", 0, "tcbLevels", 0, "tcbStatus"),
            "ConfigurationNeeded",
            "ConfigurationNeeded",
        ),
        (("tdxModuleIdentities", 0, "mrsigner"), "00" * 47, "48 bytes in hex"),
    ],
)
def test_what_is_wrong_inside_is_named(path: tuple[str | int, ...], new: object, said: str) -> None:
    with pytest.raises(MalformedError, match=said):
        TcbInfo.parse(edited(path, new))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(TCB_INFO)), inner),
    max_leaves=10,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(sorted({*TCB_INFO, *QE_IDENTITY})), JSON))
def test_any_object_gives_a_value_or_malformed(members: dict[str, Any]) -> None:
    for document in (members, {**TCB_INFO, **members}, {**QE_IDENTITY, **members}):
        for parse in (TcbInfo.parse, QeIdentity.parse):
            try:
                parse(document)
            except MalformedError as error:
                assert error.hint
