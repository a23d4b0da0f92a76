"""`tdx test --matrix`: predictions held against the boots of a matrix of emulated TDs."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tdxstack.cli import print_json
from tdxstack.cli.edge import prepare_host, surroundings
from tdxstack.cli.progress import progress_display
from tdxstack.cli.styles import STYLES
from tdxstack.errors import UsageError
from tdxstack.terminal import printable
from tdxstack.testing.matrix import Cell, whole_cells
from tdxstack.testing.matrix_run import CellResult, matrix
from tdxstack.verification.result import Status
from tdxstack.workflows.workshop import Workshop


def run_matrix(selection: Sequence[str], *, only_list: bool, yes: bool, as_json: bool) -> int:
    """Run the cells whose name has a word of `selection` in it, or list them; the exit code."""
    cells = _selected(selection)
    if only_list:
        if as_json:
            print_json({"cells": [{"id": cell.name} for cell in cells]})
        else:
            click.echo("\n".join(cell.name for cell in cells))
        return 0
    with progress_display() as display:
        prepare_host(["emulator", "image"], yes=yes, report=display.report, note=display.note)
    results = []
    with matrix(Workshop(surroundings())) as run_cell:
        for cell in cells:
            click.echo(f"{cell.name} ... ", err=True, nl=False)
            results.append(run_cell(cell))
            click.echo(f"{results[-1].status.value} ({results[-1].seconds:.1f} s)", err=True)
    passed = not any(result.status in (Status.FAIL, Status.UNKNOWN) for result in results)
    if as_json:
        cells_json = [result.to_json() for result in results]
        print_json({"passed": passed, "emulated": True, "cells": cells_json})
    else:
        _print(results)
    return 0 if passed else 1


def _selected(selection: Sequence[str]) -> list[Cell]:
    cells = whole_cells()
    for word in selection:
        if not any(word in cell.name for cell in cells):
            raise UsageError(
                f"no cell has {word!r} in its name", hint="tdx test --matrix --list shows all cells"
            )
    return [cell for cell in cells if not selection or any(word in cell.name for word in selection)]


def _print(results: Sequence[CellResult]) -> None:
    console = Console()
    table = Table("CELL", "STATUS", "EVENTS", "SECONDS", "DETAIL", box=None, pad_edge=False)
    for result in results:
        status = f"[{STYLES[result.status]}]{result.status.value}[/]"
        numbers = (str(result.events), f"{result.seconds:.1f}")
        table.add_row(Text(result.cell.name), status, *numbers, Text(printable(result.detail)))
    console.print(table)
    good = sum(result.status is Status.OK for result in results)
    note = "[bold yellow]emulated: these TDs are not protected[/]"
    console.print(f"\n{good} of {len(results)} as predicted  {note}", highlight=False)
