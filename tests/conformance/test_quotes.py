"""The quotes, collateral and times of the public index, with the answers that it gives."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from tdxstack.abi.event_log import EventLog
from tdxstack.abi.quote import Quote, TdBody10
from tdxstack.collateral.bundle import Collateral, crl_der
from tdxstack.measurement.replay import replay
from tdxstack.verification.certificates import TrustAnchor
from tdxstack.verification.inputs import ParsedCollateral
from tdxstack.verification.quote import verify_quote
from tdxstack.verification.result import Status
from tdxstack.verification.tcb_info import TcbStatus
from tests.conformance.sets import COS_113, SETS, WINTER, Set, at, eval18, read_collateral
from tests.conformance.vectors import CC_API, GO_TDX_GUEST, INTEL_QVL, PHALA, TEEPOT, read

pytestmark = pytest.mark.vectors


@pytest.mark.parametrize("row", SETS.values(), ids=list(SETS))
def test_sets_of_the_index(row: Set) -> None:
    result = row.verify()
    assert tuple(check.id for check in result.failures()) == row.failing
    assert result.accepted is (not row.failing)
    assert not result.emulated
    assert result.tcb is not None
    assert result.tcb.status is row.status
    if row.advisories:
        assert result.tcb.advisories == row.advisories


def test_set_13_the_first_two_tdx_components_do_not_count() -> None:
    """Comparing all 16 components makes this quote OutOfDate."""
    body = json.loads(read(TEEPOT + "tdx_tcb_info_eval17.json"))["tcb_info_json"]
    bundle = replace(read_collateral(PHALA + "sample/tdx_quote_collateral.json"), tcb_info=body.encode())
    result = verify_quote(Quote.parse(read(COS_113)), ParsedCollateral.parse(bundle), time=at("2025-06-20"))
    assert result.accepted
    assert result.tcb is not None
    assert result.tcb.evaluation_number == 17


def test_set_23_the_sandbox_root_is_not_trusted() -> None:
    quote = Quote.parse(read(CC_API + "quote.bin"))
    result = verify_quote(quote, ParsedCollateral.parse(read_collateral(eval18("b0c06f000000"))), time=WINTER)
    failing = {check.id for check in result.failures()}
    assert "pck.trust_anchor" in failing
    assert not failing & {
        "quote.signature",
        "quote.qe_report_signature",
        "quote.qe_report_binding",
        "pck.chain",
        "pck.validity",
    }


def test_launch_and_current_status_of_set_7() -> None:
    tcb = SETS["7"].verify().tcb
    assert tcb is not None
    assert (tcb.status, tcb.current_status) == (TcbStatus.UP_TO_DATE, TcbStatus.UP_TO_DATE)


@pytest.mark.parametrize("row", SETS.values(), ids=list(SETS))
def test_one_second_after_the_first_expiry_a_set_is_rejected(row: Set) -> None:
    parsed = ParsedCollateral.parse(read_collateral(row.collateral))
    assert parsed.tcb_info.value is not None
    assert parsed.qe_identity.value is not None
    assert parsed.pck_crl.value is not None
    assert parsed.root_ca_crl.value is not None
    ends = {
        "tcb_info.freshness": parsed.tcb_info.value.next_update,
        "qe_identity.freshness": parsed.qe_identity.value.next_update,
        "crl.pck": parsed.pck_crl.value.end,
        "crl.root": parsed.root_ca_crl.value.end,
    }
    for check_id, end in ends.items():
        assert end is not None
        for time, expired in ((end, False), (end + timedelta(seconds=1), True)):
            failing = {check.id for check in replace(row, time=time).verify().failures()}
            assert (check_id in failing) is expired


def sample_collateral(folder: str) -> Collateral:
    """Intel's sample set: one signer for TCB info and QE identity."""
    return Collateral(
        pck_crl_issuer_chain=read(folder + "pckSignChain.pem"),
        root_ca_crl=crl_der(read(folder + "rootCaCrl.der")),
        pck_crl=crl_der(read(folder + "intermediateCaCrl.der")),
        tcb_info_issuer_chain=read(folder + "tcbSignChain.pem"),
        tcb_info=read(folder + "tcbInfo.json"),
        qe_identity_issuer_chain=read(folder + "tcbSignChain.pem"),
        qe_identity=read(folder + "qeIdentity.json"),
    )


SAMPLE_CHECKS = {
    "quote.signature",
    "quote.qe_report_signature",
    "quote.qe_report_binding",
    "pck.chain",
    "pck.trust_anchor",
    "pck.validity",
    "pck.revocation",
    "crl.root",
    "crl.pck",
    "tcb_info.signature",
    "qe_identity.signature",
}


@pytest.mark.parametrize(
    ("folder", "problem"),
    [
        # The TDX sample's TCB info has SVNs that do not fit in a byte; Intel's own verdict is an error too.
        (INTEL_QVL + "tdx/", "is 65473, not a number from 0 to 255"),
        # The SGX sample, of 2019, has TCB info of version 2, and a quote that gives the PPID alone.
        (INTEL_QVL, "id is None"),
    ],
)
def test_intels_sample_sets_lead_to_intels_sample_roots(folder: str, problem: str) -> None:
    """Neither production nor emulated. Neither quote holds a chain in PEM, so the caller gives it."""
    quote = Quote.parse(read(folder + "quote.dat"))
    parsed = ParsedCollateral.parse(sample_collateral(folder))
    chain = read(folder + "pckCert.pem") + read(folder + "pckSignChain.pem")
    anchor = TrustAnchor.from_certificate(read(folder + "trustedRootCaCert.pem"))
    assert parsed.pck_crl.value is not None
    time = parsed.pck_crl.value.start + timedelta(days=1)
    result = verify_quote(quote, parsed, time=time, anchors=(anchor,), pck_chain=chain)
    assert {check.id for check in result.checks if check.status is Status.OK} >= SAMPLE_CHECKS
    assert problem in parsed.tcb_info.problem
    assert not result.accepted
    production = verify_quote(quote, parsed, time=time, pck_chain=chain)
    assert "pck.trust_anchor" in {check.id for check in production.failures()}
    without = verify_quote(quote, parsed, time=time, anchors=(anchor,))
    assert "pck.chain" in {check.id for check in without.failures()}


@pytest.mark.parametrize(
    ("der", "pem"), [("rootCaCrl.der", "rootCaCrl.pem"), ("intermediateCaCrl.der", "intermediateCaCrl.pem")]
)
def test_lists_in_pem_are_the_same_lists(der: str, pem: str) -> None:
    assert crl_der(read(INTEL_QVL + pem)) == crl_der(read(INTEL_QVL + der))


def test_a_log_replays_to_its_quote() -> None:
    body = Quote.parse(read(COS_113)).body
    assert isinstance(body, TdBody10)
    events = EventLog.parse(read(GO_TDX_GUEST + "ccel/ccel_data.dat")).events
    assert replay(events) == body.rtmrs
