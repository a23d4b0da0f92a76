"""`tdx firmware`: TDVF images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tdxstack.cli import EXISTING_FILE, json_option, print_json
from tdxstack.cli.edge import directories, surroundings
from tdxstack.cli.firmware_keys import enroll_keys, sign
from tdxstack.firmware.fetch import cached
from tdxstack.firmware.find import Firmware, find, read_image
from tdxstack.firmware.report import describe
from tdxstack.terminal import printable


@click.group()
def firmware() -> None:
    """Find TDVF, show what it measures to, give it Secure Boot keys."""


firmware.add_command(enroll_keys, "enroll")
firmware.add_command(sign)


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
    rows = [("VERSION", "FEATURES", "FILE")]
    rows += [(one.version or "-", ", ".join(sorted(one.features)) or "-", str(one.path)) for one in found]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for version, features, path in rows:
        # Not wrapped: paths are there to be copied.
        click.echo(f"{version:{widths[0]}}  {features:{widths[1]}}  {printable(path)}")


@firmware.command()
@click.argument("file", type=EXISTING_FILE)
@json_option
def inspect(file: Path, as_json: bool) -> int:
    """Show what a firmware FILE is: volumes, TDX metadata, edk2 release, Secure Boot state, MRTD.

    Exit code 1 for an image that no TD can start with; it says why.
    """
    document = describe(file, read_image(file))
    if as_json:
        print_json(document)
    else:
        _print_contents(document)
    return 0 if document["can_start_td"] else 1


def _print_contents(document: Mapping[str, Any]) -> None:
    console = Console(soft_wrap=True)
    release = document["profile"]
    orders = document["mrtd"] or {"single_pass": "-", "two_pass": "-"}
    facts = {
        "sha256": document["sha256"],
        "starts a TD": "yes" if document["can_start_td"] else "no: " + "; ".join(document["problems"]),
        "measures": "yes" if document["measures"] else "nothing: it has no driver TdTcg2Dxe",
        "says it is": " ".join((document["firmware"] or {"unknown": "-"}).values()),
        "measures as": release["name"] + ("" if release["exact"] else " (nearest to what it shows)"),
        "Secure Boot": document["secure_boot"],
        "MRTD single pass": orders["single_pass"],
        "MRTD two pass": orders["two_pass"],
    }
    for name, value in facts.items():
        click.echo(f"{name:<17} {printable(value)}")
    click.echo()
    table = Table("SECTION", "ADDRESS", "SIZE", "MEASURED INTO", box=None)
    for section in document["sections"]:
        table.add_row(
            section["type"], hex(section["address"]), hex(section["size"]), section["measured_into"] or "-"
        )
    console.print(table)
    click.echo()
    table = Table("VOLUME", "OFFSET", "SIZE", "FILES", box=None)
    for volume in document["volumes"]:
        where = "packed" if volume["offset"] is None else hex(volume["offset"])
        table.add_row(volume["name"] or "-", where, hex(volume["size"]), str(volume["files"]))
    console.print(table)
    click.echo()
    table = Table("VARIABLE", "VENDOR", "SIZE", box=None)
    for variable in document["variables"]:
        table.add_row(Text(printable(variable["name"])), variable["vendor"], str(variable["size"]))
    console.print(table)


def _document(one: Firmware) -> dict[str, object]:
    return {
        "path": str(one.path),
        "version": one.version,
        "sha256": one.sha256,
        "features": sorted(one.features),
        "descriptor": str(one.descriptor) if one.descriptor else None,
    }
