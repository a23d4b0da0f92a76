"""`tdx firmware`: TDVF images."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tdxstack.cli import json_option, print_json
from tdxstack.cli.edge import directories, surroundings
from tdxstack.firmware.fetch import cached
from tdxstack.firmware.find import Firmware, find, open_image
from tdxstack.measurement.mrtd import mrtd


@click.group()
def firmware() -> None:
    """Find TDVF and show what it measures to."""


@firmware.command("list")
@json_option
def list_firmware(as_json: bool) -> None:
    """List the firmware that TDs can start with: the host's, then what was fetched."""
    search = find(surroundings().firmware_places)
    fetched = cached(directories().cache / "firmware")
    found = [*search.found, *([fetched] if fetched else [])]
    if as_json:
        print_json({"firmware": [_document(one) for one in found], "problems": list(search.problems)})
        return
    for problem in search.problems:
        click.echo(f"warning: {problem}", err=True)
    if not found:
        click.echo("no firmware for TDs is here; `tdx up` fetches the distribution's")
        return
    table = Table("FILE", "VERSION", "FEATURES", box=None)
    for one in found:
        table.add_row(str(one.path), one.version or "-", ", ".join(sorted(one.features)))
    Console(soft_wrap=True).print(table)


@firmware.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@json_option
def inspect(file: Path, as_json: bool) -> None:
    """Show the MRTD that a firmware FILE gives a TD, in both orders that VMMs add its pages in."""
    one = open_image(file)
    value = mrtd(file.read_bytes())
    orders = {"single_pass": value.single_pass.hex(), "two_pass": value.two_pass.hex()}
    if as_json:
        print_json(_document(one) | {"mrtd": orders})
        return
    click.echo(f"sha256            {one.sha256}")
    click.echo(f"MRTD single pass  {orders['single_pass']}")
    click.echo(f"MRTD two pass     {orders['two_pass']}")


def _document(one: Firmware) -> dict[str, object]:
    return {
        "path": str(one.path),
        "version": one.version,
        "sha256": one.sha256,
        "features": sorted(one.features),
        "descriptor": str(one.descriptor) if one.descriptor else None,
    }
