"""`tdx vm list`, `show`, `log` and `events`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tdxstack.cli import json_option, print_json
from tdxstack.cli.this_machine import machine_names, open_machine
from tdxstack.errors import UsageError
from tdxstack.machine.control import CREATED, ENDED
from tdxstack.machine.events import Event, EventLog, ending
from tdxstack.machine.machine import Machine
from tdxstack.run import command_line
from tdxstack.terminal import printable

FOLLOW_SECONDS = 0.2


@click.command("list")
@json_option
def list_machines(as_json: bool) -> None:
    """List the machines and what they do."""
    documents, problems = [], []
    for name in machine_names():
        try:
            documents.append(_document(open_machine(name)))
        except UsageError as error:
            # Another command may have removed it by now.
            if name in machine_names():
                problems.append(f"{error.message}; {error.hint}")
    if as_json:
        print_json({"machines": documents, "problems": problems})
        return
    for problem in problems:
        click.echo(f"warning: {printable(problem)}", err=True)
    if not documents and not problems:
        click.echo("no machine is here; `tdx vm create` makes one")
        return
    table = Table("NAME", "STATE", "PLATFORM", "SSH PORT", "STARTED", box=None)
    for machine in documents:
        port = str(machine["ssh_port"]) if machine["running"] else "-"
        table.add_row(
            *(str(machine[key]) for key in ("name", "state", "platform")), port, str(machine["started"])
        )
    Console().print(table)


@click.command()
@click.argument("name", default="td")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show one machine: its state, its files and the command line it was started with.

    Of one that has ended, or whose guest does not go on, also why, as far as its QEMU has said so.
    """
    machine = open_machine(name)
    document = _document(machine)
    document["files"] = str(machine.files.directory)
    if document["state"] == ENDED:
        document["ended"] = machine.why_ended()
    elif reason := machine.why_halted():
        document["halted"] = reason
    if as_json:
        print_json(document)
        return
    table = Table(box=None, show_header=False)
    for key, value in document.items():
        table.add_row(key, Text(command_line(value) if isinstance(value, list) else str(value)))
    Console().print(table)


@click.command()
@click.argument("name", default="td")
def log(name: str) -> None:
    """Print what a machine has written on its console.

    On a terminal, without what a terminal would obey; elsewhere as it is.
    """
    for line in open_machine(name).console_text().removesuffix("\n").split("\n"):
        click.echo(printable(line) if sys.stdout.isatty() else line)


@click.command()
@click.argument("name", default="td")
@click.option("-f", "--follow", is_flag=True, help="Go on until the machine ends, or Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document a line.")
def events(name: str, follow: bool, as_json: bool) -> None:
    """Print what QEMU has said of a machine since it was started: resets, panics, a TD's fatal errors.

    The last event of a machine that has ended says why.
    """
    machine = open_machine(name)
    for event in _following(machine) if follow else machine.events():
        if as_json:
            click.echo(json.dumps(event.to_json()))
            continue
        when = datetime.fromtimestamp(event.seconds, UTC).isoformat(timespec="milliseconds")
        facts = ", ".join(f"{key} {printable(str(value))}" for key, value in event.data.items())
        meaning = ending(event)
        click.echo(f"{when}  {event.name}  {facts}" + (f"\n    {meaning}" if meaning else ""))


def _following(machine: Machine) -> Iterator[Event]:
    log = EventLog(machine.files.events)
    runs = True
    while runs:
        # Asked before the reading, so that the last event is not missed.
        runs = machine.is_running
        yield from log.read()
        time.sleep(FOLLOW_SECONDS)


def _document(machine: Machine) -> dict[str, object]:
    state = machine.state()
    return {**asdict(machine.record), "running": state not in (CREATED, ENDED), "state": state}
