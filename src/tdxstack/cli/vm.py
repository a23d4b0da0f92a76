"""`tdx vm`: machines that are there."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tdxstack.cli import json_option, print_json
from tdxstack.cli.edge import directories, surroundings
from tdxstack.cli.progress import progress_display
from tdxstack.errors import CommandError, UnavailableError, UsageError
from tdxstack.machine.console import attach
from tdxstack.machine.control import ENDED, reboot, require_running, resume, run_state, suspend
from tdxstack.machine.instance import stop_machine
from tdxstack.machine.ssh import IN_GUEST
from tdxstack.machine.store import MachineState, MachineStore
from tdxstack.run import command_line, run
from tdxstack.terminal import printable
from tdxstack.workflows.up import bring_down, ssh_to
from tdxstack.workflows.workshop import Workshop

ASK_SECONDS = 60.0
SSH_FAILED = 255
"""Exit code of ssh for a failure of its own."""


@click.group()
def vm() -> None:
    """List, show, enter and control machines."""


@vm.command("list")
@json_option
def list_machines(as_json: bool) -> None:
    """List the machines and whether they run."""
    store = MachineStore(directories())
    machines = [(store.load(name), run_state(store, name)) for name in store.names()]
    if as_json:
        print_json({"machines": [_document(state, doing) for state, doing in machines]})
        return
    table = Table("NAME", "STATE", "PLATFORM", "SSH PORT", "STARTED", box=None)
    for state, doing in machines:
        port = "-" if doing == ENDED else str(state.ssh_port)
        table.add_row(state.name, doing, state.platform, port, state.started)
    Console().print(table)


@vm.command()
@click.argument("name", default="td")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show one machine: its state, its files and the command line it was started with."""
    store = MachineStore(directories())
    state = store.load(name)
    document = _document(state, run_state(store, name))
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
    require_running(store, name)
    argv = ssh_to(state, store.files(name), Workshop(surroundings())).argv(_words(command))
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


@vm.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--timeout", type=float, default=600.0, show_default=True, help="Seconds that it may take.")
@click.argument("name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@json_option
def exec(name: str, command: tuple[str, ...], timeout: float, as_json: bool) -> int:
    """Run a COMMAND in a machine, without a terminal, and end with its exit code.

    Options go before NAME. Words are passed as they are; for a shell's work say: sh -c "...".
    With --json: its exit code and output as one document, and exit code 0.
    """
    store = MachineStore(directories())
    require_running(store, name)
    ssh = ssh_to(store.load(name), store.files(name), Workshop(surroundings()))
    # ssh hands one text to the guest's shell: quoted, the words arrive as they are here.
    done = run(ssh.argv([shlex.join(_words(command))]), timeout=timeout, check=False)
    if done.returncode == SSH_FAILED:
        raise CommandError(
            f"SSH to machine {name!r} failed: {done.stderr.decode(errors='replace').strip()}",
            hint=f"see what the guest says: tdx vm log {name}",
        )
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
def cp(source: str, target: str, recursive: bool) -> None:
    """Copy files into a machine or out of it: one of SOURCE and TARGET is NAME:PATH."""
    store = MachineStore(directories())
    machine, words = _machine_of(store, source, target)
    require_running(store, machine)
    workshop = Workshop(surroundings())
    scp = workshop.toolbox.program("scp").argv()
    ssh = ssh_to(store.load(machine), store.files(machine), workshop)
    run(ssh.copy_argv(scp, *words, recursive=recursive))


@vm.command()
@click.argument("name", default="td")
def console(name: str) -> None:
    """Join this terminal with a machine's serial console; Ctrl-] leaves it."""
    store = MachineStore(directories())
    require_running(store, name)
    if sys.stdin.isatty():
        click.echo(f"console of {name}; Ctrl-] leaves it", err=True)
    attach(store.files(name).console_socket, sys.stdin.fileno(), sys.stdout.fileno())


@vm.command("suspend")
@click.argument("name", default="td")
def suspend_machine(name: str) -> None:
    """Halt a machine's vCPUs; its memory stays."""
    store = MachineStore(directories())
    with store.claim(name):
        suspend(store, name)


@vm.command("resume")
@click.argument("name", default="td")
def resume_machine(name: str) -> None:
    """Let a halted machine go on."""
    store = MachineStore(directories())
    with store.claim(name):
        resume(store, name)


@vm.command("reboot")
@click.argument("name", default="td")
@click.option("--force", is_flag=True, help="Reset it without asking the guest: unwritten files are lost.")
@click.option("--timeout", type=float, default=600.0, show_default=True, help="Seconds that it may take.")
def reboot_machine(name: str, force: bool, timeout: float) -> None:
    """Reboot a machine, and wait until it is ready.

    A TD is built anew and measured anew; what software had extended into its registers is gone.
    """
    store = MachineStore(directories())
    require_running(store, name)
    ssh = ssh_to(store.load(name), store.files(name), Workshop(surroundings()))

    def ask() -> None:
        # A moment later, so that the answer still comes back: a guest that goes down drops it.
        run(
            ssh.argv(["systemd-run", "--quiet", "--on-active=1s", "systemctl", "reboot"]), timeout=ASK_SECONDS
        )

    with store.claim(name), progress_display() as display:
        display.report("rebooting")
        reboot(store, name, timeout, display.console_line, None if force else ask)


@vm.command()
@click.argument("name", default="td")
@click.option("--force", is_flag=True, help="Do not ask the guest first.")
def stop(name: str, force: bool) -> None:
    """Stop a machine; its files stay until `tdx vm rm`, or the next `tdx up` of that name."""
    store = MachineStore(directories())
    store.load(name)
    with store.claim(name):
        stop_machine(store, name, force=force)


@vm.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="End it first if it runs, without asking the guest.")
def rm(name: str, force: bool) -> None:
    """Remove a machine that has ended, with its disk."""
    store = MachineStore(directories())
    store.load(name)
    if store.is_running(name) and not force:
        raise UnavailableError(f"machine {name!r} is running", hint=f"stop it first: tdx vm stop {name}")
    bring_down(store, name, force=True)


def _words(command: tuple[str, ...]) -> tuple[str, ...]:
    """The command, without a -- that stands before it."""
    return command[1:] if command[:1] == ("--",) else command


def _machine_of(store: MachineStore, source: str, target: str) -> tuple[str, tuple[str, str]]:
    """The machine that a copy is about, and both places as scp understands them."""
    names = [place.partition(":")[0] if ":" in place else "" for place in (source, target)]
    known = [name for name in names if name in store.names()]
    if len(known) != 1:
        machines = ", ".join(store.names()) or "none"
        raise UsageError(
            f"one of {source!r} and {target!r} must be NAME:PATH of a machine",
            hint=f"machines here: {machines}; a file with a colon is written ./FILE",
        )
    words = tuple(
        f"{IN_GUEST}{place.partition(':')[2]}" if name == known[0] else place
        for name, place in zip(names, (source, target), strict=True)
    )
    return known[0], (words[0], words[1])


def _document(state: MachineState, doing: str) -> dict[str, object]:
    return {**asdict(state), "running": doing != ENDED, "state": doing}
