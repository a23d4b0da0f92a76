"""`tdx cache`: what was fetched and built, and being rid of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tdxstack.cli import json_option, print_json
from tdxstack.cli.amounts import age_text, size_text
from tdxstack.cli.edge import directories, now
from tdxstack.terminal import printable
from tdxstack.verification.policy_file import read_duration
from tdxstack.workflows.cache import Entry, entries, prune, unneeded


@click.group()
def cache() -> None:
    """See what fills the cache directory, and prune it.

    All of it was fetched or made by other commands, which do it again where it is missing.
    """


@cache.command("list")
@json_option
def list_entries(as_json: bool) -> None:
    """List what is in the cache: its size, how long nothing has used it, and what it is kept for.

    What names no reason is deleted by `tdx cache prune`.
    """
    found = entries(directories(), now())
    if as_json:
        print_json({"directory": str(directories().cache), "entries": [one.to_json() for one in found]})
        return
    table = Table("KIND", "NAME", "SIZE", "UNUSED FOR", "KEPT FOR", box=None)
    for one in found:
        kept = ", ".join([*one.users, *([one.needed] if one.needed else [])]) or "-"
        words = (Text(printable(one.name)), size_text(one.size), age_text(now() - one.used))
        table.add_row(one.kind, *words, Text(printable(kept)))
    Console(soft_wrap=True).print(table)
    click.echo(f"{size_text(sum(one.size for one in found))} in {directories().cache}")


def _read_age(_context: click.Context, _parameter: click.Parameter, value: str | None) -> timedelta:
    try:
        return timedelta(0) if value is None else read_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@cache.command("prune")
@click.option(
    "--older-than", metavar="AGE", callback=_read_age, help="Only what was unused for so long, as 30d."
)
@click.option("--all", "everything", is_flag=True, help="Also what will have to be fetched or made again.")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@json_option
def prune_entries(older_than: timedelta, everything: bool, dry_run: bool, as_json: bool) -> None:
    """Delete what nothing needs any more: what newer versions have replaced, and what was interrupted.

    Never what a machine has, running or not, or what another process has open; and nothing at all while
    something is being built.
    """
    if dry_run:
        found = entries(directories(), now())
        gone = unneeded(found, now(), everything=everything, older_than=older_than)
    else:
        gone = prune(directories(), now(), everything=everything, older_than=older_than)
    if as_json:
        key = "would_delete" if dry_run else "deleted"
        print_json({key: [one.to_json() for one in gone], "size": sum(one.size for one in gone)})
    else:
        _print(gone, "would delete" if dry_run else "deleted")


def _print(gone: Sequence[Entry], what: str) -> None:
    for one in gone:
        click.echo(printable(f"{what} {one.kind} {one.name}, {size_text(one.size)}"))
    click.echo(f"{what} {size_text(sum(one.size for one in gone))}" if gone else "nothing to delete")
