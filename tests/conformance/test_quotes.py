"""Public quotes with the answers that their publishers give, and a second verifier, dcap-qvl, beside ours."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tdxstack.abi.event_log import EventLog
from tdxstack.abi.quote import Quote, TdBody10
from tdxstack.abi.tdreport import TdReport
from tdxstack.collateral.bundle import Collateral
from tdxstack.errors import MalformedError
from tdxstack.measurement.replay import replay
from tdxstack.verification.certificates import TrustAnchor
from tdxstack.verification.inputs import ParsedCollateral
from tdxstack.verification.policy import Policy
from tdxstack.verification.quote import QuoteResult, verify_quote
from tdxstack.verification.result import Status
from tdxstack.verification.tcb_info import TcbStatus

VECTORS = Path(
    os.environ.get("TDXSTACK_VECTORS") or Path(__file__).resolve().parents[3] / "shared" / "vectors"
)

pytestmark = pytest.mark.skipif(
    not (VECTORS / "INDEX.md").is_file(), reason="no public vectors beside the checkout (TDXSTACK_VECTORS)"
)

PHALA = "Phala-Network+dcap-qvl/sample/"
NEAR = "Phala-Network+dcap-qvl/tests/near/contracts/gas-test/tests/quote/"
GOOGLE = "google+go-tdx-guest/testing/testdata/"
TRUSTEE = "confidential-containers+trustee/deps/verifier/test_data/"
AUTOMATA = "automata-network+tdx-attestation-sdk/tdx/examples/testdata/"
TEEPOT = "matter-labs+teepot/crates/intel-dcap-api/tests/test_data/"
INTEL_QVL = "intel+confidential-computing.tee.dcap.qvl/Src/AttestationApp/sampleData/"

COS_113 = GOOGLE + "ccel/cos-113-tdx-quote.dat"
COS_113_ADVISORIES = (
    "INTEL-SA-01010",
    "INTEL-SA-01036",
    "INTEL-SA-01076",
    "INTEL-SA-01079",
    "INTEL-SA-01099",
    "INTEL-SA-01103",
    "INTEL-SA-01111",
)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def eval18(fmspc: str, day: str = "2025-11-17") -> str:
    return f"_derived/collateral-{fmspc}-eval18-{day}.json"


def raw(path: str) -> bytes:
    data = (VECTORS / path).read_bytes()
    if path.endswith((".hex", ".txt")):
        return bytes.fromhex(data.decode().strip().removeprefix("0x"))
    return data


def read(path: str) -> Collateral:
    return Collateral.from_json((VECTORS / path).read_bytes())


@dataclass(frozen=True)
class Set:
    """A row of the index: quote, collateral, time; the status, and the checks that fail by default."""

    quote: str
    collateral: str
    time: datetime
    status: TcbStatus
    failing: tuple[str, ...] = ()
    advisories: tuple[str, ...] = ()

    def verify(self, policy: Policy | None = None) -> QuoteResult:
        return verify_quote(
            Quote.parse(raw(self.quote)),
            ParsedCollateral.parse(read(self.collateral)),
            time=self.time,
            policy=policy,
        )


WINTER = at("2025-12-01")
SETS = {
    "1": Set(
        PHALA + "tdx_quote", PHALA + "tdx_quote_collateral.json", at("2025-06-20"), TcbStatus.UP_TO_DATE
    ),
    "2": Set(NEAR + "quote_hex.txt", NEAR + "quote_collateral.json", at("2025-09-10"), TcbStatus.UP_TO_DATE),
    "6": Set(
        PHALA + "tdx_quote_outdated",
        PHALA + "tdx_quote_outdated_collateral.json",
        at("2026-02-19"),
        TcbStatus.NOT_SUPPORTED,
        ("tcb.status",),
    ),
    "7": Set(
        GOOGLE + "quote_v5_sample.dat",
        eval18("90c06f000000", "2026-03-16"),
        at("2026-04-15T12:00"),
        TcbStatus.UP_TO_DATE,
    ),
    "11": Set(AUTOMATA + "tdx_v4_quote.bin", eval18("00806f050000"), WINTER, TcbStatus.UP_TO_DATE),
    "12": Set(
        COS_113, eval18("00806f050000"), WINTER, TcbStatus.OUT_OF_DATE, ("tcb.status",), COS_113_ADVISORIES
    ),
    "17": Set(PHALA + "tdx_quote", eval18("b0c06f000000"), WINTER, TcbStatus.UP_TO_DATE),
    "18": Set(
        TRUSTEE + "tdx_quote_4.dat",
        eval18("50806f000000"),
        WINTER,
        TcbStatus.OUT_OF_DATE,
        ("tcb.status", "td.debug"),
    ),
    "21-spr": Set(
        GOOGLE + "tdx_prod_quote_SPR_E4.dat",
        eval18("50806f000000"),
        WINTER,
        TcbStatus.NOT_SUPPORTED,
        ("tcb.status",),
    ),
    "21-ruteri": Set(
        "Ruteri+dummy-tdx-dcap/httpserver/sample_quote.hex",
        eval18("b0c06f000000"),
        WINTER,
        TcbStatus.NOT_SUPPORTED,
        ("tcb.status",),
    ),
    "21-tappd": Set(
        PHALA + "quote-from-tappd.hex",
        eval18("b0c06f000000"),
        WINTER,
        TcbStatus.NOT_SUPPORTED,
        ("tcb.status",),
    ),
    "21-trustee": Set(
        TRUSTEE + "tdx_quote_5.dat", eval18("90c06f000000"), WINTER, TcbStatus.NOT_SUPPORTED, ("tcb.status",)
    ),
    "sgx": Set(
        PHALA + "sgx_quote",
        PHALA + "sgx_quote_collateral.json",
        at("2025-06-20"),
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
        ("tcb.status",),
        ("INTEL-SA-00289", "INTEL-SA-00615"),
    ),
}


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
    body = json.loads((VECTORS / TEEPOT / "tdx_tcb_info_eval17.json").read_bytes())["tcb_info_json"]
    collateral = replace(read(PHALA + "tdx_quote_collateral.json"), tcb_info=body.encode())
    result = verify_quote(
        Quote.parse(raw(COS_113)), ParsedCollateral.parse(collateral), time=at("2025-06-20")
    )
    assert result.accepted
    assert result.tcb is not None
    assert result.tcb.evaluation_number == 17


def test_set_23_the_sandbox_root_is_not_trusted() -> None:
    quote = Quote.parse(raw("cc-api+evidence-api/common/golang/evidence_api/test_data/quote.bin"))
    result = verify_quote(quote, ParsedCollateral.parse(read(eval18("b0c06f000000"))), time=at("2025-12-01"))
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
    parsed = ParsedCollateral.parse(read(row.collateral))
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


def test_intels_sample_quote_leads_to_intels_sample_root() -> None:
    """From Intel's test PKI, neither production nor emulated. The quote's own chain is not PEM as it must be,
    and its TCB info has SVNs that do not fit in a byte."""
    folder = INTEL_QVL + "tdx/"
    quote = Quote.parse(raw(folder + "quote.dat"))
    anchor = TrustAnchor.from_certificate(raw(folder + "trustedRootCaCert.pem"))
    collateral = Collateral(
        pck_crl_issuer_chain=raw(folder + "pckSignChain.pem"),
        root_ca_crl=raw(folder + "rootCaCrl.der"),
        pck_crl=raw(folder + "intermediateCaCrl.der"),
        tcb_info_issuer_chain=raw(folder + "tcbSignChain.pem"),
        tcb_info=raw(folder + "tcbInfo.json"),
        qe_identity_issuer_chain=raw(folder + "tcbSignChain.pem"),
        qe_identity=raw(folder + "qeIdentity.json"),
    )
    parsed = ParsedCollateral.parse(collateral)
    assert parsed.pck_crl.value is not None
    chain = raw(folder + "pckCert.pem") + raw(folder + "pckSignChain.pem")
    time = parsed.pck_crl.value.start
    result = verify_quote(quote, parsed, time=time, anchors=(anchor,), pck_chain=chain)
    passed = {check.id for check in result.checks if check.status is Status.OK}
    assert passed >= {
        "quote.signature",
        "quote.qe_report_signature",
        "quote.qe_report_binding",
        "pck.chain",
        "pck.trust_anchor",
        "pck.revocation",
        "crl.root",
        "crl.pck",
        "tcb_info.signature",
        "qe_identity.signature",
    }
    production = verify_quote(quote, parsed, time=time, pck_chain=chain)
    assert "pck.trust_anchor" in {check.id for check in production.failures()}


# TDREPORTs, and logs that belong to quotes.


def test_public_tdreports() -> None:
    path = "confidential-containers+guest-components/attestation-agent/attester/test/tdx_report_1.bin"
    report = TdReport.parse(raw(path))
    assert report.mac.version == 1
    assert report.hashes_bind()
    assert report.to_bytes() == raw(path)


def test_random_bytes_are_no_tdreport() -> None:
    with pytest.raises(MalformedError, match="report type"):
        TdReport.parse(raw(GOOGLE + "report.dat"))


def test_a_log_replays_to_its_quote() -> None:
    body = Quote.parse(raw(COS_113)).body
    assert isinstance(body, TdBody10)
    events = EventLog.parse(raw(GOOGLE + "ccel/ccel_data.dat")).events
    assert replay(events) == body.rtmrs


# dcap-qvl beside ours.

STATUS_CHECKS = {"tcb.status", "qe.status"}


def peer(quote: bytes, collateral: Collateral, time: datetime) -> tuple[str, tuple[str, ...]] | None:
    """What dcap-qvl says: status and advisories, None for a rejection."""
    dcap_qvl = pytest.importorskip("dcap_qvl")
    bundle = dcap_qvl.QuoteCollateralV3.from_json(collateral.to_dcap_qvl_json().decode())
    try:
        report = dcap_qvl.verify(quote, bundle, int(time.timestamp()))
    except ValueError:
        return None
    return report.status, tuple(sorted(report.advisory_ids))


def ours(quote: bytes, collateral: ParsedCollateral, time: datetime) -> tuple[str, tuple[str, ...]] | None:
    """The same of ours: everything but the status must pass."""
    try:
        parsed = Quote.parse(quote)
    except MalformedError:
        return None
    result = verify_quote(parsed, collateral, time=time)
    failing = {check.id for check in result.failures()}
    if failing - STATUS_CHECKS or result.tcb is None or result.tcb.status is TcbStatus.NOT_SUPPORTED:
        return None
    return result.tcb.status.value, result.tcb.advisories


def only_we_accept(quote: bytes) -> bool:
    """The named rules by which dcap-qvl rejects what Intel's algorithm does not look at."""
    try:
        parsed = Quote.parse(quote)
    except MalformedError:
        return False
    without_sept_ve_disable = isinstance(parsed.body, TdBody10) and not parsed.body.td_attributes & 1 << 28
    return len(parsed.signature.qe_auth_data) != 32 or without_sept_ve_disable


def only_they_accept(quote: bytes, original: bytes) -> bool:
    """dcap-qvl ends at its own root and never reads the quote's, which Intel's algorithm demands."""
    root = original.rfind(b"-----BEGIN CERTIFICATE-----")
    return quote[:root] == original[:root]


@pytest.mark.parametrize("row", SETS.values(), ids=list(SETS))
def test_dcap_qvl_says_the_same(row: Set) -> None:
    collateral = read(row.collateral)
    quote = raw(row.quote)
    found = ours(quote, ParsedCollateral.parse(collateral), row.time)
    if only_we_accept(quote):
        return
    assert found == peer(quote, collateral, row.time)


def changes(seed: str) -> Callable[[bytes], bytes]:
    chance = random.Random(seed)

    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        kind = chance.randrange(3)
        at = chance.randrange(len(changed))
        if kind == 0:
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            changed[at : at + 4] = chance.randbytes(4)
        else:
            del changed[at:]
        return bytes(changed)

    return change


@pytest.mark.parametrize("row", SETS.values(), ids=list(SETS))
def test_dcap_qvl_says_the_same_of_changed_quotes(row: Set) -> None:
    collateral = read(row.collateral)
    parsed = ParsedCollateral.parse(collateral)
    change = changes(row.quote)
    quote = Quote.parse(raw(row.quote))
    data = replace(quote, trailing=b"").to_bytes()
    for _ in range(60):
        changed = change(data)
        found, said = ours(changed, parsed, row.time), peer(changed, collateral, row.time)
        if found is None and said is not None:
            assert only_they_accept(changed, data), changed.hex()
        else:
            assert found == said or only_we_accept(changed), changed.hex()
