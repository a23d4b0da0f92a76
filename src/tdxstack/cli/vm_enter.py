"""`tdx vm ssh`, `exec`, `cp` and `console`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from tdxstack.cli import json_option, print_json
from tdxstack.cli.this_machine import machine_names, open_machine
from tdxstack.cli.vm_control import dry_run_option, steps_document, timeout_option
from tdxstack.errors import UsageError
from tdxstack.machine.machine import COMMAND_SECONDS
from tdxstack.run import command_line


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(name: str, command: tuple[str, ...]) -> None:
    """Enter a machine by SSH, or run a COMMAND in it.

    Only the host key that the machine showed first is accepted: the one that `tdx up` has had proved.
    """
    argv = open_machine(name).ssh.argv(_words(command))
    os.execv(argv[0], argv)  # noqa: S606 - the terminal becomes ssh's


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@timeout_option(COMMAND_SECONDS)
@click.option("--agent", is_flag=True, help="Through the guest agent; COMMAND is a program's path.")
@click.argument("name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@json_option
def exec_(name: str, command: tuple[str, ...], timeout: float, agent: bool, as_json: bool) -> int:
    """Run a COMMAND in a machine, without a terminal, and end with its exit code.

    Options go before NAME. Words are passed as they are; for a shell's work say: sh -c "...".
    With --json: its exit code and output as one document, and exit code 0.
    """
    machine = open_machine(name)
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
    # What a signal has ended is told as shells tell it.
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


@click.command()
@click.argument("source")
@click.argument("target")
@click.option("-r", "--recursive", is_flag=True, help="Copy directories whole.")
@timeout_option(COMMAND_SECONDS)
@dry_run_option
@json_option
def cp(source: str, target: str, recursive: bool, timeout: float, dry_run: bool, as_json: bool) -> None:
    """Copy files into a machine or out of it: one of SOURCE and TARGET is NAME:PATH."""
    name = _machine_of(machine_names(), source, target)
    machine = open_machine(name)
    into = target.startswith(f"{name}:")
    inside = (target if into else source).partition(":")[2]
    if dry_run:
        words = machine.copy_command(source if into else target, inside, into=into, recursive=recursive)
        if as_json:
            print_json(steps_document({name: [command_line(words)]}))
        else:
            click.echo(f"would  {command_line(words)}")
        return
    if into:
        machine.copy_in(Path(source), inside, recursive=recursive, timeout=timeout)
    else:
        machine.copy_out(inside, Path(target), recursive=recursive, timeout=timeout)
    if as_json:
        print_json({"copied": source, "to": target})


@click.command()
@click.argument("name", default="td")
def console(name: str) -> None:
    """Join this terminal with a machine's serial console; Ctrl-] leaves it."""
    machine = open_machine(name)
    machine.require_running()
    if sys.stdin.isatty():
        click.echo(f"console of {name}; Ctrl-] leaves it", err=True)
    machine.attach_console(sys.stdin.fileno(), sys.stdout.fileno())


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
