from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tdxstack.verification.evaluation import Evaluation, converge, evaluate, match_level
from tdxstack.verification.sgx_extension import SgxExtension
from tdxstack.verification.shortfalls import Update, described, module_part
from tdxstack.verification.tcb_info import IsvLevel, TcbInfo, TcbStatus

S = TcbStatus
PCK = SgxExtension(
    ppid=bytes(16),
    components=bytes([5] * 16),
    pcesvn=10,
    cpusvn=bytes(16),
    pce_id=bytes(2),
    fmspc=bytes(6),
    sgx_type=1,
)
GOOD_QE = IsvLevel(4, datetime(2025, 5, 1, tzinfo=UTC), S.UP_TO_DATE, ())
MODULE = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}


def level(
    status: str, sgx: int = 5, pce: int = 10, tdx: int = 3, date: str = "2025-01-01", **more: Any
) -> Any:
    return {
        "tcb": {
            "sgxtcbcomponents": [{"svn": sgx}] * 16,
            "pcesvn": pce,
            "tdxtcbcomponents": [{"svn": tdx}] * 16,
        },
        "tcbDate": f"{date}T00:00:00Z",
        "tcbStatus": status,
        **more,
    }


def module(name: str, *levels: tuple[int, str]) -> dict[str, Any]:
    return {
        "id": name,
        **MODULE,
        "tcbLevels": [
            {
                "tcb": {"isvsvn": svn},
                "tcbDate": "2024-06-01T00:00:00Z",
                "tcbStatus": status,
                "advisoryIDs": [f"M-{svn}"] if status != "UpToDate" else [],
            }
            for svn, status in levels
        ],
    }


def info(*levels: Any, modules: list[dict[str, Any]] | None = None) -> TcbInfo:
    return TcbInfo.parse(
        {
            "id": "TDX",
            "version": 3,
            "issueDate": "2026-01-01T00:00:00Z",
            "nextUpdate": "2026-02-01T00:00:00Z",
            "fmspc": "00" * 6,
            "pceId": "0000",
            "tcbType": 0,
            "tcbEvaluationDataNumber": 20,
            "tdxModule": MODULE,
            "tdxModuleIdentities": [module("TDX_01", (6, "UpToDate"), (4, "OutOfDate"))]
            if modules is None
            else modules,
            "tcbLevels": list(levels),
        }
    )


def svn(first: int, major: int = 1, rest: int = 3) -> bytes:
    return bytes([first, major] + [rest] * 14)


def test_the_first_level_reached_counts() -> None:
    both = info(level("UpToDate", sgx=6), level("SWHardeningNeeded", sgx=5), level("OutOfDate", sgx=1))
    found = match_level(both, PCK, svn(6))
    assert found is not None
    assert found.status is S.SW_HARDENING_NEEDED


@pytest.mark.parametrize(
    ("needed", "status"),
    [
        (level("UpToDate", sgx=6), S.NOT_SUPPORTED),
        (level("UpToDate", pce=11), S.NOT_SUPPORTED),
        (level("UpToDate", tdx=4), S.NOT_SUPPORTED),
        (level("UpToDate"), S.UP_TO_DATE),
    ],
)
def test_each_part_must_reach_the_level(needed: Any, status: TcbStatus) -> None:
    assert evaluate(info(needed), PCK, GOOD_QE, svn(6)).status is status


def test_every_component_counts() -> None:
    for index in range(16):
        components = bytearray(PCK.components)
        components[index] -= 1
        short = SgxExtension(
            **{**{name: getattr(PCK, name) for name in PCK.__slots__}, "components": bytes(components)}
        )
        assert match_level(info(level("UpToDate")), short, svn(6)) is None


@pytest.mark.parametrize("index", range(16))
def test_modules_from_1_5_on_skip_the_first_two_tdx_components(index: int) -> None:
    """An implementation that compares all 16 components calls a good 1.5 module out of date."""
    strict = info(level("UpToDate", tdx=5))
    tee_tcb_svn = bytearray([5] * 16)
    tee_tcb_svn[1] = 1
    tee_tcb_svn[index] = 1
    reached = match_level(strict, PCK, bytes(tee_tcb_svn)) is not None
    assert reached is (index < 2)


def test_modules_of_1_0_compare_all_tdx_components_and_have_no_identity() -> None:
    levels = info(level("UpToDate", tdx=0), modules=[])
    assert evaluate(levels, PCK, GOOD_QE, svn(0, 0)).status is S.UP_TO_DATE
    assert evaluate(info(level("UpToDate", tdx=1)), PCK, GOOD_QE, svn(0, 0, 9)).status is S.NOT_SUPPORTED


@pytest.mark.parametrize(
    ("first", "major", "status"),
    [
        (6, 1, S.UP_TO_DATE),
        (7, 1, S.UP_TO_DATE),
        (5, 1, S.OUT_OF_DATE),
        (3, 1, S.NOT_SUPPORTED),
        (6, 3, S.NOT_SUPPORTED),
    ],
)
def test_the_module_has_its_own_levels(first: int, major: int, status: TcbStatus) -> None:
    result = evaluate(info(level("UpToDate")), PCK, GOOD_QE, svn(first, major))
    assert result.status is result.without_qe is status


def test_a_good_module_does_not_hide_an_old_platform() -> None:
    """An implementation that returns the module's status alone loses the platform's."""
    levels = info(level("UpToDate", sgx=6), level("OutOfDate", sgx=1))
    assert evaluate(levels, PCK, GOOD_QE, svn(6)).status is S.OUT_OF_DATE


def test_the_quoting_enclave_counts_and_can_be_told_apart() -> None:
    old = IsvLevel(1, datetime(2023, 1, 1, tzinfo=UTC), S.OUT_OF_DATE, ("Q-1",))
    result = evaluate(info(level("UpToDate", advisoryIDs=["P-1"])), PCK, old, svn(5))
    assert (result.status, result.without_qe) == (S.OUT_OF_DATE, S.OUT_OF_DATE)
    assert result.advisories == ("M-4", "P-1", "Q-1")
    assert result.date == datetime(2023, 1, 1, tzinfo=UTC)
    assert evaluate(info(level("UpToDate")), PCK, old, svn(6)).without_qe is S.UP_TO_DATE
    assert evaluate(info(level("UpToDate")), PCK, None, svn(6)).status is S.NOT_SUPPORTED


PLATFORM = [
    S.UP_TO_DATE,
    S.SW_HARDENING_NEEDED,
    S.CONFIGURATION_NEEDED,
    S.CONFIGURATION_AND_SW_HARDENING_NEEDED,
]


@pytest.mark.parametrize(
    ("platform", "out_of_date"),
    [
        (S.UP_TO_DATE, S.OUT_OF_DATE),
        (S.SW_HARDENING_NEEDED, S.OUT_OF_DATE),
        (S.CONFIGURATION_NEEDED, S.OUT_OF_DATE_CONFIGURATION_NEEDED),
        (S.CONFIGURATION_AND_SW_HARDENING_NEEDED, S.OUT_OF_DATE_CONFIGURATION_NEEDED),
        (S.OUT_OF_DATE, S.OUT_OF_DATE),
        (S.OUT_OF_DATE_CONFIGURATION_NEEDED, S.OUT_OF_DATE_CONFIGURATION_NEEDED),
        (S.REVOKED, S.REVOKED),
    ],
)
def test_converge(platform: TcbStatus, out_of_date: TcbStatus) -> None:
    assert converge(platform, []) is platform
    assert converge(platform, [S.UP_TO_DATE, S.UP_TO_DATE]) is platform
    assert converge(platform, [S.UP_TO_DATE, S.OUT_OF_DATE]) is out_of_date
    assert converge(platform, [S.OUT_OF_DATE, S.REVOKED]) is S.REVOKED
    assert converge(platform, [S.CONFIGURATION_NEEDED]) is platform
    assert converge(platform, [S.REVOKED, S.NOT_SUPPORTED]) is S.NOT_SUPPORTED


@pytest.mark.parametrize(
    ("platform", "launch", "current", "status"),
    [
        ("UpToDate", 6, 6, S.UP_TO_DATE),
        ("UpToDate", 4, 6, S.TD_RELAUNCH_ADVISED),
        ("SWHardeningNeeded", 4, 6, S.TD_RELAUNCH_ADVISED),
        ("ConfigurationNeeded", 4, 6, S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED),
        ("ConfigurationAndSWHardeningNeeded", 4, 6, S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED),
        ("UpToDate", 4, 4, S.OUT_OF_DATE),
        ("OutOfDate", 4, 6, S.OUT_OF_DATE),
        ("Revoked", 4, 6, S.REVOKED),
        ("UpToDate", 6, 4, S.UP_TO_DATE),
        ("UpToDate", 2, 6, S.NOT_SUPPORTED),
        ("UpToDate", 6, 2, S.NOT_SUPPORTED),
    ],
)
def test_relaunch(platform: str, launch: int, current: int, status: TcbStatus) -> None:
    result: Evaluation = evaluate(info(level(platform)), PCK, GOOD_QE, svn(launch), svn(current))
    assert result.status is result.without_qe is status
    assert result.current_status is not None


def test_sgx_has_no_tdx_part() -> None:
    assert evaluate(info(level("UpToDate", tdx=99), modules=[]), PCK, GOOD_QE).status is S.UP_TO_DATE


BEST = level("UpToDate", sgx=7, pce=11, tdx=4, date="2025-02-02")
BEST["tcb"]["sgxtcbcomponents"] = [{"svn": 5}] * 14 + [
    {"svn": 7, "category": "BIOS", "type": "Early Microcode Update"},
    {"svn": 7, "category": "OS/VMM", "type": "SEAMLDR ACM"},
]
OLDER = level("OutOfDate", date="2024-02-02", advisoryIDs=["P-1"])


def test_shortfalls_name_what_is_short_by_how_much_since_when_and_what_to_update() -> None:
    result = evaluate(info(BEST, OLDER), PCK, GOOD_QE, svn(4))
    update, loader, pce, module_update = described(result.shortfalls)
    assert update.startswith(
        "update microcode or BIOS, as asked for since the TCB of 2025-02-02: "
        "SGX component 15 (BIOS / Early Microcode Update) is 5, needs 7; TDX component 3 is 3, needs 4; "
    )
    assert loader == (
        "update SEAM loader, as asked for since the TCB of 2025-02-02: "
        "SGX component 16 (OS/VMM / SEAMLDR ACM) is 5, needs 7"
    )
    assert pce == "update PCE, as asked for since the TCB of 2025-02-02: PCESVN is 10, needs 11"
    assert module_update == (
        "update TDX module, as asked for since the TCB of 2024-06-01: "
        "ISVSVN of the TDX module 1.5 (TDX_01) is 4, needs 6"
    )
    assert len(result.shortfalls) == 2 + 14 + 1 + 1
    module = result.shortfalls[-1]
    assert [shortfall.advisories for shortfall in result.shortfalls[-2:]] == [("P-1",), ("M-4",)]
    assert module.to_json() == {
        "part": "ISVSVN of the TDX module 1.5 (TDX_01)",
        "name": "",
        "have": 4,
        "need": 6,
        "update": "TDX module",
        "since": "2024-06-01T00:00:00Z",
        "advisory_ids": ["M-4"],
    }


def test_what_is_as_good_as_the_best_falls_short_of_nothing() -> None:
    assert evaluate(info(level("UpToDate")), PCK, GOOD_QE, svn(6)).shortfalls == ()
    two = info(level("UpToDate", pce=11), level("UpToDate"), OLDER)
    assert evaluate(two, PCK, GOOD_QE, svn(6)).shortfalls == ()
    old_qe = IsvLevel(1, datetime(2023, 1, 1, tzinfo=UTC), S.OUT_OF_DATE, ())
    assert evaluate(two, PCK, old_qe, svn(6)).shortfalls == ()


def test_the_lowest_of_the_best_levels_is_what_is_needed() -> None:
    levels = info(level("UpToDate", sgx=9), level("UpToDate", sgx=7, date="2023-03-03"), OLDER)
    shortfalls = evaluate(levels, PCK, GOOD_QE, svn(6)).shortfalls
    assert {(shortfall.need, f"{shortfall.since:%Y}") for shortfall in shortfalls} == {(7, "2023")}


def test_no_level_at_all_is_told_against_the_best() -> None:
    shortfalls = evaluate(info(BEST), PCK, GOOD_QE, svn(6)).shortfalls
    assert [shortfall.part for shortfall in shortfalls[:2]] == ["SGX component 15", "SGX component 16"]
    assert shortfalls[0].advisories == ()
    assert evaluate(info(), PCK, GOOD_QE, svn(6)).shortfalls == ()


def test_modules_of_1_0_are_components() -> None:
    best = level("UpToDate")
    best["tcb"]["tdxtcbcomponents"] = [{"svn": 5, "category": "OS/VMM", "type": "TDX Module"}] + [
        {"svn": 0}
    ] * 15
    shortfalls = evaluate(info(best, level("OutOfDate", tdx=0)), PCK, GOOD_QE, svn(3, 0)).shortfalls
    assert [(shortfall.part, shortfall.update) for shortfall in shortfalls] == [
        ("TDX component 1", Update.TDX_MODULE)
    ]


@pytest.mark.parametrize(
    ("major", "part"),
    [(0, "TDX module 1.0 (TDX_00)"), (3, "TDX module 2.0 (TDX_03)"), (9, "TDX module TDX_09")],
)
def test_modules_have_the_names_that_people_know(major: int, part: str) -> None:
    assert module_part(major) == part


def test_levels_are_tried_from_the_highest_whatever_their_order() -> None:
    """Intel's library sorts them."""
    levels = info(
        level("OutOfDate", sgx=1),
        level("UpToDate"),
        modules=[module("TDX_01", (4, "OutOfDate"), (6, "UpToDate"))],
    )
    assert evaluate(levels, PCK, GOOD_QE, svn(6)).status is S.UP_TO_DATE


def test_a_running_module_without_a_level_is_told() -> None:
    levels = info(level("UpToDate"), modules=[module("TDX_01", (6, "UpToDate"), (4, "OutOfDate"))])
    result = evaluate(levels, PCK, GOOD_QE, svn(6), svn(2))
    assert (result.status, result.date, result.advisories) == (S.NOT_SUPPORTED, None, ())
    assert [str(shortfall) for shortfall in result.shortfalls] == [
        "ISVSVN of the TDX module 1.5 (TDX_01) is 2, needs 6"
    ]
