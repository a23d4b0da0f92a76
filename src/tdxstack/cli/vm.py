"""`tdx vm`: machines that are there."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tdxstack.cli import json_option, print_json
from tdxstack.cli.edge import surroundings
from tdxstack.cli.sudo import become_invoking_user
from tdxstack.cli.vm_control import dry_run_option, reboot, resume, rm, stop, suspend, timeout_option
from tdxstack.cli.vm_create import create, start
from tdxstack.cli.vm_export import export
from tdxstack.cli.vm_inspect import debug, memory_check
from tdxstack.errors import UsageError
from tdxstack.machine.console import attach
from tdxstack.machine.control import CREATED, ENDED
from tdxstack.machine.events import Event, EventLog, ending
from tdxstack.machine.machine import COMMAND_SECONDS, Machine
from tdxstack.run import command_line
from tdxstack.terminal import printable
from tdxstack.workflows.machines import Machines

FOLLOW_SECONDS = 0.2


@click.group()
@click.pass_context
def vm(ctx: click.Context) -> None:
    """Make, list, show, enter and control machines."""
    if ctx.invoked_subcommand != "create":
        become_invoking_user()


for command in (create, start, export, suspend, resume, reboot, stop, rm, debug, memory_check):
    vm.add_command(command)


@vm.command("list")
@json_option
def list_machines(as_json: bool) -> None:
    """List the machines and what they do."""
    machines = Machines(surroundings())
    documents = [_document(machines.open(name)) for name in machines.names()]
    if as_json:
        print_json({"machines": documents})
        return
    table = Table("NAME", "STATE", "PLATFORM", "SSH PORT", "STARTED", box=None)
    for machine in documents:
        port = str(machine["ssh_port"]) if machine["running"] else "-"
        table.add_row(
            *(str(machine[key]) for key in ("name", "state", "platform")), port, str(machine["started"])
        )
    Console().print(table)


@vm.command()
@click.argument("name", default="td")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show one machine: its state, its files and the command line it was started with.

    Of one that has ended, also why, as far as its QEMU has said so.
    """
    machine = Machines(surroundings()).open(name)
    document = _document(machine)
    document["files"] = str(machine.files.directory)
    if document["state"] == ENDED:
        document["ended"] = machine.why_ended()
    if as_json:
        print_json(document)
        return
    table = Table(box=None, show_header=False)
    for key, value in document.items():
        table.add_row(key, Text(command_line(value) if isinstance(value, list) else str(value)))
    Console().print(table)


@vm.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(name: str, command: tuple[str, ...]) -> None:
    """Enter a machine by SSH, or run a COMMAND in it.

    Only the host key that the machine showed first is accepted: the one that `tdx up` has had proved.
    """
    argv = Machines(surroundings()).open(name).ssh.argv(_words(command))
    os.execv(argv[0], argv)  # noqa: S606 - the terminal becomes ssh's


@vm.command()
@click.argument("name", default="td")
def log(name: str) -> None:
    """Print what a machine has written on its console.

    On a terminal, without what a terminal would obey; elsewhere as it is.
    """
    for line in Machines(surroundings()).open(name).console_text().split("\n")[:-1]:
        click.echo(printable(line) if sys.stdout.isatty() else line)


@vm.command()
@click.argument("name", default="td")
@click.option("-f", "--follow", is_flag=True, help="Go on until the machine ends, or Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document a line.")
def events(name: str, follow: bool, as_json: bool) -> None:
    """Print what QEMU has said of a machine since it was started: resets, panics, a TD's fatal errors.

    The last event of a machine that has ended says why.
    """
    machine = Machines(surroundings()).open(name)
    for event in _following(machine) if follow else machine.events():
        if as_json:
            click.echo(json.dumps(event.to_json()))
            continue
        when = datetime.fromtimestamp(event.seconds, UTC).isoformat(timespec="milliseconds")
        facts = ", ".join(f"{key} {printable(str(value))}" for key, value in event.data.items())
        meaning = ending(event)
        click.echo(f"{when}  {event.name}  {facts}" + (f"\n    {meaning}" if meaning else ""))


@vm.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@timeout_option(COMMAND_SECONDS)
@click.option("--agent", is_flag=True, help="Through the guest agent; COMMAND is a program's path.")
@click.argument("name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@json_option
def exec(name: str, command: tuple[str, ...], timeout: float, agent: bool, as_json: bool) -> int:
    """Run a COMMAND in a machine, without a terminal, and end with its exit code.

    Options go before NAME. Words are passed as they are; for a shell's work say: sh -c "...".
    With --json: its exit code and output as one document, and exit code 0.
    """
    machine = Machines(surroundings()).open(name)
    if agent:
        done = machine.run_by_agent(_words(command), timeout=timeout)
    else:
        done = machine.run(_words(command), timeout=timeout, check=False)
    if as_json:
        output = {"stdout": done.stdout, "stderr": done.stderr}
        texts = {key: data.decode(errors="replace") for key, data in output.items()}
        print_json({"exit_code": done.returncode, **texts})
        return 0
    sys.stdout.buffer.write(done.stdout)
    sys.stdout.flush()
    sys.stderr.buffer.write(done.stderr)
    return done.returncode


@vm.command()
@click.argument("source")
@click.argument("target")
@click.option("-r", "--recursive", is_flag=True, help="Copy directories whole.")
@timeout_option(COMMAND_SECONDS)
@dry_run_option
@json_option
def cp(source: str, target: str, recursive: bool, timeout: float, dry_run: bool, as_json: bool) -> None:
    """Copy files into a machine or out of it: one of SOURCE and TARGET is NAME:PATH."""
    machines = Machines(surroundings())
    name = _machine_of(machines.names(), source, target)
    machine = machines.open(name)
    into = target.startswith(f"{name}:")
    inside = (target if into else source).partition(":")[2]
    if dry_run:
        words = machine.copy_command(source if into else target, inside, into=into, recursive=recursive)
        if as_json:
            print_json({"steps": [{"machine": name, "text": command_line(words)}]})
        else:
            click.echo(f"would  {command_line(words)}")
        return
    if into:
        machine.copy_in(Path(source), inside, recursive=recursive, timeout=timeout)
    else:
        machine.copy_out(inside, Path(target), recursive=recursive, timeout=timeout)
    if as_json:
        print_json({"copied": source, "to": target})


@vm.command()
@click.argument("name", default="td")
def console(name: str) -> None:
    """Join this terminal with a machine's serial console; Ctrl-] leaves it."""
    machine = Machines(surroundings()).open(name)
    machine.require_running()
    if sys.stdin.isatty():
        click.echo(f"console of {name}; Ctrl-] leaves it", err=True)
    attach(machine.files.console_socket, sys.stdin.fileno(), sys.stdout.fileno())


def _following(machine: Machine) -> Iterator[Event]:
    log = EventLog(machine.files.events)
    runs = True
    while runs:
        # Asked before the reading, so that the last event is not missed.
        runs = machine.is_running
        yield from log.read()
        time.sleep(FOLLOW_SECONDS)


def _words(command: tuple[str, ...]) -> tuple[str, ...]:
    """The command, without a -- that stands before it."""
    return command[1:] if command[:1] == ("--",) else command


def _machine_of(machines: Sequence[str], source: str, target: str) -> str:
    """The machine that a copy is about."""
    names = [place.partition(":")[0] if ":" in place else "" for place in (source, target)]
    known = [name for name in names if name in machines]
    if len(known) != 1:
        raise UsageError(
            f"one of {source!r} and {target!r} must be NAME:PATH of a machine",
            hint=f"machines here: {', '.join(machines) or 'none'}; a file with a colon is written ./FILE",
        )
    return known[0]


def _document(machine: Machine) -> dict[str, object]:
    state = machine.state()
    return {**asdict(machine.record), "running": state not in (CREATED, ENDED), "state": state}
