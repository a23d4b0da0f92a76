"""Each rule of a policy, seen to hold and seen to fail, on one genuine quote."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tdxstack.abi.quote import Quote, TdBody15
from tdxstack.abi.sgx_report import SgxReportBody
from tdxstack.errors import UsageError
from tdxstack.evidence.binding import report_data
from tdxstack.verification.inputs import ParsedCollateral
from tdxstack.verification.policy import AllOf, AnyOf, AnyPolicy, Policy, binding, each, expecting
from tdxstack.verification.quote import QUOTE_CHECKS, QuoteResult, verify_quote
from tdxstack.verification.result import Check, Status
from tdxstack.verification.tcb_info import TcbStatus
from tdxstack.verification.td import check_attributes, check_demands
from tests.recorded_boot import ALLOW_EMULATED, NOW, Keys, Recorded, signed, with_tcb_info

SERVICE_TD = b"\x5e" * 48


@pytest.fixture(scope="module")
def advised(boot: Recorded, keys: Keys) -> Recorded:
    """A platform in need of software hardening, for two advisories."""

    def change(value: dict[str, Any]) -> None:
        level = value["tcbLevels"][0]
        level.update(tcbStatus="SWHardeningNeeded", advisoryIDs=["INTEL-SA-00002", "INTEL-SA-00001"])

    return with_tcb_info(boot, keys, change)


def verify(boot: Recorded, policy: AnyPolicy, quote: Quote | None = None) -> QuoteResult:
    return verify_quote(
        quote or boot.quote,
        ParsedCollateral.parse(boot.collateral),
        time=NOW,
        anchors=boot.anchors,
        policy=each(policy, lambda one: replace(one, allow_emulated=True)),
    )


def bad(result: QuoteResult) -> list[str]:
    return [check.id for check in result.failures()]


def found(result: QuoteResult, check_id: str) -> Check:
    (check,) = [check for check in result.checks if check.id == check_id]
    return check


def body(boot: Recorded) -> TdBody15:
    assert isinstance(boot.quote.body, TdBody15)
    return boot.quote.body


HARDENING = frozenset({TcbStatus.UP_TO_DATE, TcbStatus.SW_HARDENING_NEEDED})


@pytest.mark.parametrize(
    ("rules", "accepted"),
    [
        ({"denied_advisories": frozenset({"INTEL-SA-00003"})}, True),
        ({"denied_advisories": frozenset({"INTEL-SA-00003", "INTEL-SA-00001"})}, False),
        ({"allowed_advisories": frozenset({"INTEL-SA-00001", "INTEL-SA-00002"})}, True),
        ({"allowed_advisories": frozenset({"INTEL-SA-00001"})}, False),
        ({"allowed_advisories": frozenset[str]()}, False),
    ],
)
def test_advisories(advised: Recorded, rules: dict[str, Any], accepted: bool) -> None:
    result = verify(advised, Policy(accepted_tcb_statuses=HARDENING, **rules))
    assert bad(result) == ([] if accepted else ["tcb.advisories"])
    assert found(result, "tcb.advisories").found == "INTEL-SA-00001, INTEL-SA-00002"


def test_advisories_cannot_be_judged_without_tcb_info(boot: Recorded) -> None:
    broken = replace(boot, collateral=replace(boot.collateral, tcb_info=b"{}"))
    result = verify(broken, Policy(denied_advisories=frozenset({"INTEL-SA-00001"})))
    assert found(result, "tcb.advisories").status is Status.UNKNOWN


def test_the_default_says_nothing_of_advisories(advised: Recorded) -> None:
    assert bad(verify(advised, Policy())) == ["tcb.status"]
    assert verify(advised, Policy(accepted_tcb_statuses=HARDENING)).accepted


def test_fmspcs(boot: Recorded) -> None:
    extension = verify(boot, Policy()).pck
    assert extension is not None
    assert verify(boot, Policy(fmspcs=frozenset({extension.fmspc, bytes(6)}))).accepted
    for fmspcs in (frozenset({bytes(6)}), frozenset[bytes]()):
        assert bad(verify(boot, Policy(fmspcs=fmspcs))) == ["pck.fmspc"]


def test_authorities(boot: Recorded) -> None:
    assert verify(boot, Policy(pck_cas=frozenset({"platform"}))).accepted
    for authorities in (frozenset({"processor"}), frozenset[str]()):
        assert bad(verify(boot, Policy(pck_cas=authorities))) == ["pck.ca"]


def test_rules_on_the_pck_need_one(boot: Recorded) -> None:
    section = boot.quote.signature
    without = replace(
        boot.quote,
        signature=replace(section, certification=replace(section.certification, data=b"no chain")),
    )
    policy = Policy(pck_cas=frozenset({"platform"}), fmspcs=frozenset({bytes(6)}))
    result = verify(boot, policy, without)
    assert found(result, "pck.ca").status is Status.UNKNOWN
    assert found(result, "pck.fmspc").status is Status.UNKNOWN


def test_attributes(boot: Recorded) -> None:
    on = body(boot).td_attributes
    pks = 1 << 30
    assert on and not on & pks
    assert verify(boot, Policy(required_attributes=on, forbidden_attributes=pks)).accepted
    result = verify(boot, Policy(required_attributes=pks))
    assert bad(result) == ["td.attributes"]
    assert found(result, "td.attributes").detail == "PKS is off"
    result = verify(boot, Policy(forbidden_attributes=on))
    assert bad(result) == ["td.attributes"]
    assert found(result, "td.attributes").detail == "SEPT_VE_DISABLE is on"


@pytest.mark.parametrize("rules", [{"required_attributes": 1 << 28}, {"forbidden_attributes": 1 << 28}])
def test_an_enclave_has_no_attributes_of_a_td(rules: dict[str, Any]) -> None:
    assert check_attributes(SgxReportBody(), Policy()).status is Status.NOT_APPLICABLE
    assert check_attributes(SgxReportBody(), Policy(**rules)).status is Status.FAIL


def test_service_tds(boot: Recorded, keys: Keys) -> None:
    none, ours = frozenset({bytes(48)}), frozenset({SERVICE_TD})
    bound = signed(replace(boot.quote, body=replace(body(boot), mrservicetd=SERVICE_TD)), keys)
    assert verify(boot, Policy(service_tds=none)).accepted
    assert verify(boot, Policy(service_tds=ours), bound).accepted
    assert bad(verify(boot, Policy(service_tds=ours))) == ["td.service_td"]
    assert bad(verify(boot, Policy(service_tds=none), bound)) == ["td.service_td"]
    assert "td.service_td" not in [check.id for check in verify(boot, Policy()).checks]
    unasked = verify(boot, Policy(), bound)
    assert unasked.accepted
    assert found(unasked, "td.service_td").status is Status.WARNING


def test_a_report_that_names_no_service_td_satisfies_no_rule_on_it() -> None:
    policy = Policy(service_tds=frozenset({bytes(48)}))
    (check,) = check_demands(SgxReportBody(), policy)
    assert (check.id, check.status) == ("td.service_td", Status.FAIL)


def test_the_nonce_and_the_key_are_bound(boot: Recorded, keys: Keys) -> None:
    nonce, key = b"\x11" * 32, b"\0\0\0\x0bssh-ed25519" + bytes(36)
    for policy in (Policy(nonce=nonce), Policy(nonce=nonce, bound_key=key)):
        changed = replace(body(boot), report_data=report_data(nonce, policy.bound_key))
        assert verify(boot, policy, signed(replace(boot.quote, body=changed), keys)).accepted
        assert bad(verify(boot, policy)) == ["td.nonce"]
    mixed = signed(replace(boot.quote, body=replace(body(boot), report_data=report_data(nonce, b""))), keys)
    assert bad(verify(boot, Policy(nonce=nonce, bound_key=key), mixed)) == ["td.nonce"]
    assert bad(verify(boot, Policy(bound_key=key), mixed)) == ["td.nonce"]


def test_a_nonce_joins_the_key_of_a_policy() -> None:
    nonce, key = b"\x11" * 32, b"key"
    assert binding(Policy(), nonce) == Policy(nonce=nonce)
    assert binding(Policy(bound_key=key), nonce) == Policy(nonce=nonce, bound_key=key)
    assert binding(Policy(nonce=nonce), nonce, key) == Policy(nonce=nonce, bound_key=key)
    assert binding(AnyOf((Policy(),)), nonce, key) == AnyOf((Policy(nonce=nonce, bound_key=key),))
    for policy in (Policy(nonce=bytes(32)), Policy(bound_key=b"other")):
        with pytest.raises(UsageError):
            binding(policy, nonce, key)


def test_registers_have_one_of_the_values(boot: Recorded) -> None:
    mrtd = body(boot).mrtd
    assert verify(boot, Policy(expected={"mrtd": (bytes(48), mrtd)})).accepted
    assert bad(verify(boot, Policy(expected={"mrtd": (bytes(48),)}))) == ["td.expected.mrtd"]
    assert bad(verify(boot, Policy(expected={"mrtd": ()}))) == ["td.expected.mrtd"]


def test_what_is_expected_besides_narrows_every_alternative(boot: Recorded) -> None:
    mrtd, other = body(boot).mrtd, bytes(48)
    free, fixed = Policy(), Policy(expected={"mrtd": (other, mrtd)})
    for policy in (free, fixed, AnyOf((free, fixed)), AllOf((free, fixed))):
        assert verify(boot, expecting(policy, "mrtd", mrtd)).accepted
        assert not verify(boot, expecting(policy, "mrtd", b"\x01" * 48)).accepted
    assert bad(verify(boot, expecting(fixed, "mrtd", b"\x01" * 48))) == ["td.expected.mrtd"]


def test_graces_and_floors_count_for_their_own_alternative(boot: Recorded) -> None:
    graceful = Policy(name="graceful", collateral_grace=timedelta(days=60))
    later = replace(boot, time=NOW + timedelta(days=45))
    arguments: dict[str, Any] = {"time": later.time, "anchors": boot.anchors}
    collateral = ParsedCollateral.parse(boot.collateral)

    def at(policy: AnyPolicy) -> QuoteResult:
        allowing = each(policy, lambda one: replace(one, allow_emulated=True))
        return verify_quote(boot.quote, collateral, policy=allowing, **arguments)

    assert at(graceful).accepted
    assert at(AnyOf((Policy(), graceful))).accepted
    assert not at(AllOf((Policy(), graceful))).accepted
    floor = AnyOf((replace(graceful, minimum_evaluation_number=10**6), graceful))
    assert at(floor).accepted


def test_every_check_is_there_once_whatever_the_policy(boot: Recorded) -> None:
    nested = AllOf((AnyOf((Policy(pck_cas=frozenset({"processor"})), Policy())), Policy()))
    for policy in (Policy(), AnyOf(()), nested):
        ids = [check.id for check in verify(boot, policy).checks]
        assert tuple(ids[: len(QUOTE_CHECKS)]) == QUOTE_CHECKS
        assert len(ids) == len(set(ids))


def test_no_combination_accepts_what_is_not_genuine(boot: Recorded) -> None:
    forged = replace(boot.quote, body=replace(body(boot), mrtd=bytes(48)))
    result = verify(boot, AnyOf((Policy(), ALLOW_EMULATED)), forged)
    assert bad(result) == ["quote.signature", "policy.any_of"]
    assert not verify(boot, AnyOf(())).accepted
