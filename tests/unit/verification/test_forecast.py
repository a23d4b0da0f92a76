from __future__ import annotations

from typing import Any

from tdxstack.quoting.pki import Pki
from tdxstack.verification.forecast import Change, Forecast
from tdxstack.verification.quote import Verifier
from tdxstack.verification.result import Status
from tests.recorded_boot import (
    ALLOW_EMULATED,
    NOW,
    Keys,
    Recorded,
    with_tcb_info,
)


def early(value: dict[str, Any]) -> None:
    """The next TCB recovery: a level above all others, which asks for a later microcode."""
    best = value["tcbLevels"][0]
    above = {**best, "tcb": {**best["tcb"]}, "tcbDate": "2026-02-11T00:00:00Z"}
    components = [dict(component) for component in best["tcb"]["sgxtcbcomponents"]]
    components[0]["svn"] += 1
    above["tcb"]["sgxtcbcomponents"] = components
    best.update(tcbStatus="OutOfDate", advisoryIDs=["INTEL-SA-09999"])
    value["tcbLevels"].insert(0, above)
    value["tcbEvaluationDataNumber"] += 1


def test_a_forecast_tells_what_changes_and_from_when(boot: Recorded, pki: Pki) -> None:
    verifier = Verifier(anchors=boot.anchors, policy=ALLOW_EMULATED)
    now = verifier.verify(boot.quote, boot.collateral, time=NOW)
    later = with_tcb_info(boot, Keys.of(pki), early).collateral
    forecast = Forecast(now, verifier.verify(boot.quote, later, time=NOW))
    (change,) = forecast.changes
    assert (change.id, change.now, change.then) == ("tcb.status", Status.OK, Status.FAIL)
    assert "SGX component 1" in change.detail
    document = forecast.to_json()
    assert document["changes"] == [change.to_json()]
    assert document["now"]["verdict"] == "accepted"
    assert document["then"]["verdict"] == "rejected"
    assert document["then"]["tcb_status"] == "OutOfDate"
    assert document["then"]["advisory_ids"] == ["INTEL-SA-09999"]
    assert document["then"]["tcb"]["latest_date"] == "2026-02-11T00:00:00Z"
    assert document["then"]["tcb"]["evaluation_number"] == document["now"]["tcb"]["evaluation_number"] + 1


def test_no_change_is_forecast_for_the_same_collateral(boot: Recorded) -> None:
    result = Verifier(anchors=boot.anchors).verify(boot.quote, boot.collateral, time=NOW)
    assert Forecast(result, result).changes == ()


def test_checks_that_are_made_only_once_are_told(boot: Recorded) -> None:
    verifier = Verifier(anchors=boot.anchors, policy=ALLOW_EMULATED)
    result = verifier.verify(boot.quote, boot.collateral, time=NOW)
    fewer = type(result)(result.quote, result.checks[1:], result.tcb, result.pck, result.pck_ca, True)
    assert Forecast(result, fewer).changes == (Change("quote.format", Status.OK, None, ""),)
    assert Forecast(fewer, result).changes == (Change("quote.format", None, Status.OK, ""),)
