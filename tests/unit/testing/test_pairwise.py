"""Pairwise sets of cells."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from tdxstack.testing.matrix import (
    CHAIN,
    DIMENSIONS,
    MAX_PAIRWISE,
    Cell,
    allowed,
    pairwise_cells,
    whole_cells,
)
from tdxstack.testing.pairwise import combinations_of, pairwise


def pairs(cell: Mapping[str, Any]) -> set[frozenset[tuple[str, Any]]]:
    return {frozenset(pair) for pair in combinations(cell.items(), 2)}


def fields(cell: Cell) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in DIMENSIONS}


def test_two_values_that_can_go_together_do_so() -> None:
    dimensions = {"a": [1, 2, 3], "b": [1, 2], "c": [1, 2]}
    cells = pairwise(dimensions, lambda cell: cell["a"] != cell["b"], lambda cell: cell["a"])
    possible = [cell for cell in combinations_of(dimensions) if cell["a"] != cell["b"]]
    assert set().union(*map(pairs, cells)) == set().union(*map(pairs, possible))
    assert len(cells) < len(possible)
    assert all(cell in possible for cell in cells)


def test_of_equals_the_cheapest_is_taken() -> None:
    cells = pairwise({"a": [1, 2], "b": [1, 2]}, lambda _: True, lambda cell: -cell["a"] - cell["b"])
    assert cells[0] == {"a": 2, "b": 2}


def test_the_pairwise_matrix() -> None:
    cells = pairwise_cells()
    assert len(cells) <= MAX_PAIRWISE
    assert len({cell.name for cell in cells}) == len(cells)
    covered = set().union(*(pairs(fields(cell)) for cell in cells))
    assert all(pairs(cell) <= covered for cell in combinations_of(DIMENSIONS) if allowed(cell))
    assert all(allowed(fields(cell)) for cell in cells)


def test_the_whole_matrix_has_every_chain_in_shapes_of_their_own() -> None:
    cells = [fields(cell) for cell in whole_cells()]
    chains = {tuple(cell[name] for name in CHAIN) for cell in cells}
    possible = {tuple(cell[name] for name in CHAIN) for cell in combinations_of(DIMENSIONS) if allowed(cell)}
    assert chains == possible
    assert len(chains) == len(cells)
    shapes = [tuple(cell[name] for name in DIMENSIONS if name not in CHAIN) for cell in cells]
    assert len(set(shapes)) >= len(shapes) - 1
