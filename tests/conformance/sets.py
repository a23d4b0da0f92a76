"""Ready-made sets of the public index: a quote, its collateral, a time, and the answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from tdxstack.abi.quote import Quote
from tdxstack.collateral.bundle import Collateral
from tdxstack.verification.inputs import ParsedCollateral
from tdxstack.verification.policy import Policy
from tdxstack.verification.quote import QuoteResult, verify_quote
from tdxstack.verification.tcb_info import TcbStatus
from tests.conformance import vectors
from tests.conformance.vectors import AUTOMATA_SDK, DERIVED, GO_TDX_GUEST, NEAR, PHALA, RUTERI, TRUSTEE

COS_113 = GO_TDX_GUEST + "ccel/cos-113-tdx-quote.dat"
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
    return f"{DERIVED}collateral-{fmspc}-eval18-{day}.json"


def read_collateral(name: str) -> Collateral:
    """A bundle of the index."""
    return Collateral.from_json(vectors.read(name))


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
            Quote.parse(vectors.quote(self.quote)),
            ParsedCollateral.parse(read_collateral(self.collateral)),
            time=self.time,
            policy=policy,
        )


WINTER = at("2025-12-01")
SETS = {
    "1": Set(
        PHALA + "sample/tdx_quote",
        PHALA + "sample/tdx_quote_collateral.json",
        at("2025-06-20"),
        TcbStatus.UP_TO_DATE,
    ),
    "2": Set(NEAR + "quote_hex.txt", NEAR + "quote_collateral.json", at("2025-09-10"), TcbStatus.UP_TO_DATE),
    "6": Set(
        PHALA + "sample/tdx_quote_outdated",
        PHALA + "sample/tdx_quote_outdated_collateral.json",
        at("2026-02-19"),
        TcbStatus.NOT_SUPPORTED,
        ("tcb.status",),
    ),
    "7": Set(
        GO_TDX_GUEST + "quote_v5_sample.dat",
        eval18("90c06f000000", "2026-03-16"),
        at("2026-04-15T12:00"),
        TcbStatus.UP_TO_DATE,
    ),
    "11": Set(AUTOMATA_SDK + "tdx_v4_quote.bin", eval18("00806f050000"), WINTER, TcbStatus.UP_TO_DATE),
    "12": Set(
        COS_113, eval18("00806f050000"), WINTER, TcbStatus.OUT_OF_DATE, ("tcb.status",), COS_113_ADVISORIES
    ),
    "17": Set(PHALA + "sample/tdx_quote", eval18("b0c06f000000"), WINTER, TcbStatus.UP_TO_DATE),
    "18": Set(
        TRUSTEE + "verifier/test_data/tdx_quote_4.dat",
        eval18("50806f000000"),
        WINTER,
        TcbStatus.OUT_OF_DATE,
        ("tcb.status", "td.debug"),
    ),
    "21-spr": Set(
        GO_TDX_GUEST + "tdx_prod_quote_SPR_E4.dat",
        eval18("50806f000000"),
        WINTER,
        TcbStatus.NOT_SUPPORTED,
        ("tcb.status",),
    ),
    "21-ruteri": Set(
        RUTERI + "sample_quote.hex",
        eval18("b0c06f000000"),
        WINTER,
        TcbStatus.NOT_SUPPORTED,
        ("tcb.status",),
    ),
    "21-tappd": Set(
        PHALA + "sample/quote-from-tappd.hex",
        eval18("b0c06f000000"),
        WINTER,
        TcbStatus.NOT_SUPPORTED,
        ("tcb.status",),
    ),
    "21-trustee": Set(
        TRUSTEE + "verifier/test_data/tdx_quote_5.dat",
        eval18("90c06f000000"),
        WINTER,
        TcbStatus.NOT_SUPPORTED,
        ("tcb.status",),
    ),
    "sgx": Set(
        PHALA + "sample/sgx_quote",
        PHALA + "sample/sgx_quote_collateral.json",
        at("2025-06-20"),
        TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
        ("tcb.status",),
        ("INTEL-SA-00289", "INTEL-SA-00615"),
    ),
}
