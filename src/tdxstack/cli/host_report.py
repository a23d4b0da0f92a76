"""`tdx host report`: what a host says, for others to read."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tdxstack.cli import json_option, print_json
from tdxstack.cli.sudo import become_invoking_user
from tdxstack.cli.this_host import circumstances, machine_names, real_host
from tdxstack.errors import UnavailableError, UsageError
from tdxstack.host.report import Report, collect
from tdxstack.terminal import printable


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.tar",
    help="Where to write the report.  [required unless --dry-run]",
)
@click.option("--network", is_flag=True, help="Also ask servers on other machines, such as a remote PCCS.")
@click.option("--yes", is_flag=True, help="Write without asking.")
@click.option("--dry-run", is_flag=True, help="List what the report would hold, and write nothing.")
@json_option
def report(output: Path | None, network: bool, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Collect what the host says of TDX into a file that may be sent to others.

    Keys, tokens, passwords, addresses, names of machines and people, and serial numbers are taken out. What
    the file will hold is listed before it is written. `tdx doctor --from FILE.tar` reads it and says the same
    as on this host.
    """
    if not dry_run:
        _refuse(output)
    made = collect(real_host(), circumstances(network=network), machine_names())
    become_invoking_user()
    if not as_json:
        _list(made)
    if not dry_run and output:
        if not yes and not as_json and sys.stdin.isatty() and not click.confirm(f"Write {output}?", err=True):
            raise UnavailableError("nothing was written", hint="give --yes, or answer y")
        made.write(output)
    if as_json:
        print_json(
            {
                "file": None if dry_run or not output else str(output),
                "diagnosis": made.diagnosis["diagnosis"],
                "contents": {name: len(data) for name, data in made.contents.items()},
                "answers": sorted(made.recording.answers),
                "removed": made.removed,
            }
        )
    elif not dry_run:
        click.echo(f"written: {output}")


def _refuse(output: Path | None) -> None:
    """Refuse what could not be written in the end."""
    if output is None:
        raise UsageError("no file is named", hint="give -o FILE.tar, or --dry-run")
    if output.exists():
        raise UsageError(f"{output} exists", hint="name a new file with -o, or remove this one")
    if not output.absolute().parent.is_dir():
        raise UsageError(f"{output.absolute().parent} is no directory", hint="make it first")


def _list(made: Report) -> None:
    answers = made.recording.answers
    click.echo(f"diagnosis: {made.diagnosis['diagnosis']}\n\nanswers of this host ({len(answers)}):")
    for question in sorted(answers):
        click.echo(f"  {printable(question)}")
    click.echo("\nfiles:")
    for name, data in made.contents.items():
        click.echo(f"  {name:<14} {len(data)} bytes")
    taken = ", ".join(f"{number} {kind}" for kind, number in sorted(made.removed.items()))
    click.echo(f"\ntaken out: {taken or 'nothing'}")
