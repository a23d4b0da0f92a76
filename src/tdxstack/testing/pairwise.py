"""A small set of cells in which every two values that can go together do so at least once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import combinations, product
from typing import TypeVar

WEIGHT = 1_000_000

T = TypeVar("T", bound=Hashable)


def combinations_of(dimensions: Mapping[str, Sequence[T]]) -> Iterable[dict[str, T]]:
    """Every combination, the last dimension changing fastest."""
    for values in product(*dimensions.values()):
        yield dict(zip(dimensions, values, strict=True))


def pairwise(
    dimensions: Mapping[str, Sequence[T]],
    allowed: Callable[[dict[str, T]], bool],
    cost: Callable[[dict[str, T]], int],
) -> list[dict[str, T]]:
    """Cells that between them have every pair of values that any allowed combination has.

    Greedy: of the combinations with the most pairs that are still missing, where a pair counts the more the
    fewer combinations have it, the one that costs least, and of these the first. The same input gives the
    same cells.
    """
    candidates = [(cell, _pairs(cell), cost(cell)) for cell in combinations_of(dimensions) if allowed(cell)]
    found = Counter(pair for _, pairs, _ in candidates for pair in pairs)
    # Whole numbers, as sums of fractions depend on the order of summing, which sets do not have.
    weights = {pair: WEIGHT // count for pair, count in found.items()}
    missing = set(found)
    chosen = []
    while missing:
        best = max(candidates, key=lambda one: (sum(weights[pair] for pair in one[1] & missing), -one[2]))
        chosen.append(best[0])
        missing -= best[1]
    return chosen


def _pairs(cell: Mapping[str, T]) -> frozenset[tuple[tuple[str, T], tuple[str, T]]]:
    return frozenset(combinations(cell.items(), 2))
