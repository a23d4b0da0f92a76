"""Predictions of a pairwise set of machines against what they measure when they boot as emulated TDs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tdxstack.cli.edge import surroundings
from tdxstack.testing.matrix import Cell, pairwise_cells
from tdxstack.testing.matrix_run import CellResult, matrix
from tdxstack.verification.result import Status
from tdxstack.workflows.workshop import Workshop


@pytest.fixture(scope="module")
def run_cell(emulator_binary: Path) -> Iterator[Callable[[Cell], CellResult]]:
    with matrix(Workshop(surroundings())) as run:
        yield run


@pytest.mark.parametrize("cell", pairwise_cells(), ids=lambda cell: cell.name)
def test_a_cell_is_as_predicted(cell: Cell, run_cell: Callable[[Cell], CellResult]) -> None:
    result = run_cell(cell)
    if result.status is Status.NOT_APPLICABLE:
        pytest.skip(result.detail)
    assert result.status is Status.OK, result.detail
