"""`tdx vm debug` and `tdx vm memory-check`: what the VMM can see of a guest."""

from __future__ import annotations

import click

from tdxstack import interrupts
from tdxstack.cli import json_option, print_json
from tdxstack.cli.edge import surroundings
from tdxstack.cli.progress import progress_display
from tdxstack.cli.vm_control import dry_run_option, print_steps, timeout_option
from tdxstack.machine import debug as debugging
from tdxstack.machine import steps
from tdxstack.machine.memory_check import DUMP_SECONDS
from tdxstack.run import command_line
from tdxstack.workflows.machines import Machines
from tdxstack.workflows.memory import check_memory


@click.command()
@click.argument("name", default="td")
@click.option("--stop", is_flag=True, help="Close the gdb stub again; the guest goes on.")
@dry_run_option
@json_option
def debug(name: str, stop: bool, dry_run: bool, as_json: bool) -> None:
    """Open QEMU's gdb stub for an ordinary machine or an emulated TD, and say how to connect.

    The guest's kernel is asked how far it was moved from where its symbols say (KASLR). A debugger that
    connects halts the guest. A machine made with --nokaslr is not moved.
    """
    if dry_run:
        print_steps([name], lambda vm: steps.debug(vm.files, stop=stop), as_json)
        return
    machine = Machines(surroundings()).open(name)
    if stop:
        interrupts.wait(lambda: debugging.close(machine))
        if as_json:
            print_json({"name": name, "state": machine.state()})
        return
    found = interrupts.wait(lambda: debugging.debug(machine))
    if as_json:
        print_json(found.to_json())
        return
    click.echo(command_line(found.command))
    if found.package:
        click.echo(f"symbols: install {found.package}, which has {found.symbols}", err=True)
    if found.offset is None:
        click.echo("the guest's kernel could not be asked where it is: no symbols are loaded", err=True)
    click.echo(f"end it with: tdx vm debug {name} --stop", err=True)


@click.command("memory-check")
@click.argument("name", default="td")
@timeout_option(DUMP_SECONDS)
@dry_run_option
@json_option
def memory_check(name: str, timeout: float, dry_run: bool, as_json: bool) -> int:
    """Say whether the VMM can read a machine's memory; exit code 1 if it can.

    A random secret is planted in the guest and looked for in QEMU's dump of its memory, and likewise in an
    ordinary machine that is started for this: there it must be found. The dump is never on a disk.
    """
    if dry_run:
        print_steps([name], lambda vm: steps.memory_check(vm.files), as_json)
        return 0
    with progress_display() as display:
        machines = Machines(surroundings(), report=display.report)
        result = interrupts.wait(lambda: check_memory(machines, name, timeout=timeout, report=display.report))
    if as_json:
        print_json(result.to_json())
    else:
        for look in (result.control, result.subject):
            seen = "found" if look.found else "not found"
            click.echo(f"{look.machine}: secret {seen} in {look.searched} bytes that QEMU gave out")
        click.echo(result.meaning)
    return 0 if result.closed else 1
