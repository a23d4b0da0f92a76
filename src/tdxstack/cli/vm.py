"""`tdx vm`: machines that are there."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tdxstack.cli import json_option, print_json
from tdxstack.cli.edge import directories, surroundings
from tdxstack.errors import UnavailableError
from tdxstack.machine.instance import stop_machine
from tdxstack.machine.store import MachineState, MachineStore
from tdxstack.run import command_line
from tdxstack.terminal import printable
from tdxstack.workflows.up import ssh_to
from tdxstack.workflows.workshop import Workshop


@click.group()
def vm() -> None:
    """List, show, enter and stop machines."""


@vm.command("list")
@json_option
def list_machines(as_json: bool) -> None:
    """List the machines and whether they run."""
    store = MachineStore(directories())
    machines = [(store.load(name), store.is_running(name)) for name in store.names()]
    if as_json:
        print_json({"machines": [_document(state, running) for state, running in machines]})
        return
    table = Table("NAME", "STATE", "PLATFORM", "SSH PORT", "STARTED", box=None)
    for state, running in machines:
        status = "running" if running else "ended"
        table.add_row(
            state.name, status, state.platform, str(state.ssh_port) if running else "-", state.started
        )
    Console().print(table)


@vm.command()
@click.argument("name", default="td")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show one machine: its state, its files and the command line it was started with."""
    store = MachineStore(directories())
    state = store.load(name)
    document = _document(state, store.is_running(name))
    document["files"] = str(store.files(name).directory)
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

    Only the host key that the machine showed to `tdx up` is accepted: the one that its evidence is about.
    """
    store = MachineStore(directories())
    state = store.load(name)
    if not store.is_running(name):
        raise UnavailableError(f"machine {name!r} is not running", hint="start one with: tdx up")
    argv = ssh_to(state, store.files(name), Workshop(surroundings())).argv(command)
    os.execv(argv[0], argv)  # noqa: S606 - the terminal becomes ssh's


@vm.command()
@click.argument("name", default="td")
def log(name: str) -> None:
    """Print what a machine has written on its console.

    On a terminal, without what a terminal would obey; elsewhere as it is.
    """
    store = MachineStore(directories())
    store.load(name)
    with store.files(name).console_log.open(encoding="utf-8", errors="replace") as console:
        for line in console:
            click.echo(printable(line) if sys.stdout.isatty() else line.rstrip("\n"))


@vm.command()
@click.argument("name", default="td")
@click.option("--force", is_flag=True, help="Do not ask the guest first.")
def stop(name: str, force: bool) -> None:
    """Stop a machine; its files stay until `tdx down`, or the next `tdx up` of that name."""
    store = MachineStore(directories())
    store.load(name)
    with store.claim(name):
        stop_machine(store, name, force=force)


def _document(state: MachineState, running: bool) -> dict[str, object]:
    return {**asdict(state), "running": running}
