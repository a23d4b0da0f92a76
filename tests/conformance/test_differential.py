"""tdxstack beside dcap-qvl: every public quote and a thousand changes of each, asked of both.

`--mutations` sets the number; the first ones are the same whatever it is.
"""

from __future__ import annotations

from functools import cache, partial

import pytest

from tdxstack.verification.quote import Verifier
from tests.conformance import items, peer, vectors
from tests.conformance.entries import ENTRIES
from tests.conformance.mutations import Case, mutations
from tests.conformance.sets import SETS, WINTER, eval18, read_collateral
from tests.conformance.vectors import INTEL_QVL, PHALA

pytestmark = [pytest.mark.vectors, pytest.mark.filterwarnings("ignore")]

QUOTES = [
    *(name for name, use in ENTRIES.items() if isinstance(use, partial) and use.func is items.quote),
    INTEL_QVL + "quote.dat",
    INTEL_QVL + "tdx/quote.dat",
]

COLLATERAL = {
    PHALA + "sample/tdx-quote.hex": "b0c06f000000",
    vectors.DCAP_RS + "quote_tdx_00806f050000.dat": "00806f050000",
    vectors.AUTOMATA_SDK + "tdx_v5_quote.bin": "90c06f000000",
}
"""FMSPC of the collateral for quotes that belong to no set of the index."""


@cache
def bases() -> dict[str, Case]:
    """Every public quote, with the collateral and time of its set; without one, with some collateral."""
    cases = {
        name: Case(vectors.quote(name), read_collateral(eval18(COLLATERAL.get(name, "50806f000000"))), WINTER)
        for name in QUOTES
    }
    for row in SETS.values():
        cases[row.quote] = Case(vectors.quote(row.quote), read_collateral(row.collateral), row.time)
    return cases


def test_every_set_is_a_base() -> None:
    assert {row.quote for row in SETS.values()} <= set(QUOTES)


@pytest.mark.parametrize("name", QUOTES)
def test_both_say_the_same(name: str, mutation_count: int) -> None:
    """One verifier, warm from all that came before; now and then a fresh one beside it."""
    base, warm = bases()[name], Verifier()
    for number, case in enumerate([base, *mutations(base, list(bases().values()), mutation_count, name)]):
        found, said = peer.answer(case, warm), peer.theirs(case)
        assert found == said or peer.explain(case, found, said), (number, case.change, found, said)
        if number % 10 == 0:
            assert peer.answer(case, Verifier()) == found, (number, case.change)


def test_every_rule_says_who_is_stricter_and_why() -> None:
    assert len({rule.id for rule in peer.RULES}) == len(peer.RULES)
    assert all(rule.why for rule in peer.RULES)
