"""tdx test --matrix, with cells that are not booted."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result

from tdxstack.cli import prediction_matrix, tdx
from tdxstack.errors import UsageError
from tdxstack.testing.matrix import Cell, whole_cells
from tdxstack.testing.matrix_run import CellResult
from tdxstack.verification.result import Status


@pytest.fixture(autouse=True)
def boots(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first cell differs, the others are as predicted."""

    cells: list[Cell] = []

    def run_cell(cell: Cell) -> CellResult:
        cells.append(cell)
        status, detail = (Status.FAIL, "rtmr0 [red]") if len(cells) == 1 else (Status.OK, "")
        return CellResult(cell, status, detail, 23, ("rtmr0",), 4.0)

    @contextlib.contextmanager
    def matrix(_workshop: object) -> Iterator[Callable[[Cell], CellResult]]:
        cells.clear()
        yield run_cell

    monkeypatch.setattr(prediction_matrix, "matrix", matrix)
    monkeypatch.setattr(prediction_matrix, "prepare_host", lambda *args, **options: None)


def run(*words: str) -> Result:
    return CliRunner().invoke(tdx, ["test", "--matrix", *words], standalone_mode=False)


def test_a_list_boots_nothing() -> None:
    done = run("--list", "grub")
    assert done.return_value == 0
    assert done.stdout.split() == [cell.name for cell in whole_cells() if "grub" in cell.name]
    document = json.loads(run("--list", "--json").stdout)
    assert len(document["cells"]) == len(whole_cells())


def test_differences_make_the_exit_code_1() -> None:
    done = run("generic-2025.02.linux-image")
    assert done.return_value == 1
    assert "rtmr0 [red]" in done.stdout
    count = sum("generic-2025.02.linux-image" in cell.name for cell in whole_cells())
    assert f"{count - 1} of {count} as predicted  emulated" in done.stdout
    assert "... ok (4.0 s)" in done.stderr
    document = json.loads(run("--json", "2022").stdout)
    assert (document["passed"], document["emulated"]) == (False, True)
    (cell,) = document["cells"]
    assert cell["id"].startswith("direct.no-secure-boot.generic-2022.11")
    assert (cell["status"], cell["events"], cell["registers"]) == ("fail", 23, ["rtmr0"])


@pytest.mark.parametrize(
    "words", [("nothing",), ("--platform", "hardware"), ("--keep-failed",), ("--junit", "file")]
)
def test_what_does_not_go_with_it_is_refused(words: tuple[str, ...]) -> None:
    assert isinstance(run(*words).exception, UsageError)
