"""The whole folder of vectors, verified as a directory of quotes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tdxstack.cli.evidence_input import read_evidence
from tdxstack.collateral.reading import read_all
from tdxstack.verification.certificates import INTEL_SGX_ROOT_CA
from tdxstack.verification.policy import Policy
from tdxstack.workflows.quote_batch import Terms, Workers, files_below
from tests.conformance.vectors import AUTOMATA_SDK, DERIVED, FOLDER, GO_TDX_GUEST, NEAR, PHALA, TRUSTEE

pytestmark = pytest.mark.vectors

UP_TO_DATE = {PHALA + "sample/tdx_quote", NEAR + "quote_hex.txt", AUTOMATA_SDK + "tdx_v4_quote.bin"}
FAILING = {
    GO_TDX_GUEST + "ccel/cos-113-tdx-quote.dat": ("OutOfDate", ("tcb.status",)),
    GO_TDX_GUEST + "tdx_prod_quote_SPR_E4.dat": ("NotSupported", ("tcb.status",)),
    TRUSTEE + "verifier/test_data/tdx_quote_4.dat": ("OutOfDate", ("tcb.status", "td.debug")),
}


def test_each_quote_among_other_files_is_judged_with_the_collateral_of_its_platform() -> None:
    bundles = sorted((FOLDER / DERIVED).glob("collateral-*-2025-11-17.json"))
    collateral = tuple(one for bundle in bundles for one in read_all(bundle.read_bytes()))
    terms = Terms(collateral, datetime(2025, 12, 1, tzinfo=UTC), (INTEL_SGX_ROOT_CA,), Policy())
    names = files_below(FOLDER)
    with Workers(FOLDER, terms, read_evidence, 2) as workers:
        lines = {line.name: line for line in workers.verify(names)}
    assert list(lines) == names
    assert {name for name, line in lines.items() if line.verdict == "accepted"} == UP_TO_DATE
    assert {name: (lines[name].tcb_status, lines[name].failing_checks) for name in FAILING} == FAILING
    assert all((line.verdict is None) is (line.error is not None) for line in lines.values())
