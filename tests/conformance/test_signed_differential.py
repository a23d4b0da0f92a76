"""tdxstack beside dcap-qvl on evidence that both must evaluate to the end, for all of it is genuinely signed.

Changes of public quotes mostly end at a signature. Here platforms, TCB levels, TDX modules, quoting enclaves
and TDs are drawn by chance and signed under an emulated root that both are told to trust.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tdxstack.verification.quote import Verifier
from tests.conformance import peer
from tests.conformance.mutations import Case
from tests.synthetic.chance import Chance
from tests.synthetic.evidence import Workshop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("signed"))


@pytest.mark.parametrize("seed", ["a", "b"])
def test_both_say_the_same(shop: Workshop, seed: str, mutation_count: int) -> None:
    """Status and advisories, but for the named rules. Most statuses come up, or little has been compared."""
    chance, warm = Chance(shop, seed), Verifier(anchors=(shop.anchor,), policy=shop.evidence().policy)
    statuses: Counter[str] = Counter()
    for number in range(max(mutation_count, 100)):
        evidence = chance.evidence()
        case = Case(evidence.quote.to_bytes(), evidence.collateral, evidence.time)
        found, said = peer.answer(case, warm), peer.theirs(case, shop.root_der)
        assert found == said or peer.explain(case, found, said), (seed, number, found, said)
        if found is not None and found == said:
            statuses[found[0]] += 1
    assert len(statuses) >= 5, statuses
    assert statuses["UpToDate"] >= 5
