"""`tdx emulator`: the patched QEMU."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tdxstack.cli import EXISTING_FILE, json_option, print_json
from tdxstack.cli.edge import (
    directories,
    mirror_options,
    prepare_host,
    surroundings,
    yes_option,
)
from tdxstack.cli.progress import progress_display
from tdxstack.cli.sudo import become_invoking_user
from tdxstack.emulator import locate
from tdxstack.emulator.locate import Emulator
from tdxstack.emulator.recipe import Recipe
from tdxstack.emulator.source import PINNED
from tdxstack.workflows.workshop import Workshop


@click.group()
def emulator() -> None:
    """Build and look after the emulating QEMU."""


@emulator.command()
@click.option(
    "--version",
    default="",
    metavar="X.Y.Z",
    help=f"Build a pinned release: {', '.join(PINNED)}. [default: the archive's]",
)
@click.option(
    "--source",
    type=EXISTING_FILE,
    help="Build a QEMU source tarball of your own.",
)
@mirror_options
@yes_option
@click.option("--dry-run", is_flag=True, help="Say what would be built, and build nothing.")
@json_option
def build(
    version: str,
    source: Path | None,
    mirror: str,
    require_fresh: bool,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Fetch QEMU's source, apply the patches and compile; what is built already is found, not built again.

    The emulator that was built or asked for last is the one that machines use.
    """
    if dry_run:
        recipe = Recipe.load()
        origin = str(source) if source else version or "the archive's source package"
        plan = {
            "source": origin,
            "patches": [patch.name for patch in recipe.patches],
            "configure": list(recipe.options),
        }
        if as_json:
            print_json(plan)
        else:
            click.echo(f"would build QEMU of {origin} with {len(recipe.patches)} patches")
        return
    with progress_display() as display:
        prepare_host(["emulator"], yes=yes, report=display.report, note=display.note)
        workshop = Workshop(surroundings(), mirror=mirror, require_fresh=require_fresh, report=display.report)
        built = workshop.build_emulator(version, source)
    if as_json:
        print_json(_document(built, current=True))
    else:
        click.echo(f"QEMU {built.version} ({built.source_origin}), key {built.key}\n{built.binary}")


@emulator.command()
@json_option
def status(as_json: bool) -> None:
    """List the emulators that are built, and which one machines use."""
    become_invoking_user()
    cache = directories().cache
    current = locate.locate(cache)
    found = locate.status(cache)
    if as_json:
        print_json({"emulators": [_document(one, current=one == current) for one in found]})
        return
    if not found:
        click.echo("no emulator is built; `tdx emulator build` or `tdx up` builds one")
        return
    table = Table("", "QEMU", "SOURCE", "BUILT", "SECONDS", "KEY", box=None)
    for one in found:
        mark = "*" if one == current else ""
        table.add_row(mark, one.version, one.source_origin, one.built, f"{one.seconds:.0f}", one.key)
    Console().print(table)


@emulator.command()
@json_option
def prune(as_json: bool) -> None:
    """Delete all emulators but the one in use, and what interrupted builds left."""
    become_invoking_user()
    gone = locate.prune(directories().cache)
    if as_json:
        print_json({"deleted": [str(path) for path in gone]})
    else:
        click.echo("\n".join(f"deleted {path}" for path in gone) or "nothing to delete")


def _document(one: Emulator, *, current: bool) -> dict[str, object]:
    return {
        "version": one.version,
        "key": one.key,
        "current": current,
        "binary": str(one.binary),
        "source": {"origin": one.source_origin, "sha256": one.source_sha256},
        "patches": list(one.patches),
        "built": one.built,
        "seconds": one.seconds,
    }
