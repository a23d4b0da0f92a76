"""`tdx vm --connect URI`: machines that a libvirt runs."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tdxstack import interrupts
from tdxstack.cli import EXISTING_FILE, json_option, print_json
from tdxstack.cli.vm_control import dry_run_option, names_argument, timeout_option, unique
from tdxstack.errors import CommandError, TdxError, UnavailableError
from tdxstack.machine.console import DETACH, READ_SIZE, raw_terminal
from tdxstack.machine.control import ENDED
from tdxstack.machine.libvirt import CALL_SECONDS, Libvirt, Mode, connect
from tdxstack.machine.spec_file import read_spec
from tdxstack.workflows import libvirt_machines

EVENT_SECONDS = 1.0
modes = click.Choice([mode.value for mode in Mode])


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def libvirt() -> None:
    """Machines that a libvirt runs. Domains that tdx has not made are neither shown nor touched."""


@libvirt.command("list")
@json_option
def list_machines(as_json: bool) -> None:
    """List the machines and what they do."""
    with connect(_uri()) as host:
        machines = [{"name": name, "state": host.state(name)} for name in host.names()]
    if as_json:
        print_json({"machines": machines})
        return
    if not machines:
        click.echo("libvirt has no machine of tdx's; `tdx vm --connect URI create` makes one")
        return
    table = Table("NAME", "STATE", box=None)
    for machine in machines:
        table.add_row(machine["name"], machine["state"])
    Console().print(table)


@libvirt.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show one machine: its state, its addresses and the ports that lead to it."""
    with connect(_uri()) as host:
        document = {
            "name": name,
            "uri": _uri(),
            "state": host.state(name),
            "addresses": host.addresses(name),
            "ports": {str(guest): port for guest, port in host.ports(name).items()},
        }
    if as_json:
        print_json(document)
        return
    table = Table(box=None, show_header=False)
    for key, value in document.items():
        table.add_row(key, str(value))
    Console().print(table)


@libvirt.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--authorized-key",
    type=EXISTING_FILE,
    help="File with the SSH public key that may enter a guest made of tdx's image.",
)
@click.option("--dry-run", is_flag=True, help="Print the domain that would be defined, and do nothing.")
@json_option
def create(file: Path, authorized_key: Path | None, dry_run: bool, as_json: bool) -> None:
    """Make a machine of a specification FILE; it does not run yet.

    Paths in it are those of libvirt's host; images lie in its storage pools, and are never written: overlays
    are made beside them.
    """
    spec = read_spec(file)
    key = authorized_key.read_text(encoding="utf-8").strip() if authorized_key is not None else ""
    if dry_run:
        xml = libvirt_machines.domain_xml(spec, key)
        if as_json:
            print_json({"xml": xml})
        else:
            click.echo(xml, nl=False)
        return
    with connect(_uri()) as host:
        interrupts.wait(lambda: libvirt_machines.create(host, spec, key))
        state = host.state(spec.name)
    if as_json:
        print_json({"name": spec.name, "state": state})


@libvirt.command()
@names_argument
@dry_run_option
@json_option
def start(names: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Start machines."""
    _for_each(names, "start", lambda host, name: host.start.aio(name), dry_run, as_json)


@libvirt.command()
@names_argument
@dry_run_option
@json_option
def suspend(names: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Halt machines' vCPUs; their memory stays."""
    _for_each(names, "suspend", lambda host, name: host.suspend.aio(name), dry_run, as_json)


@libvirt.command()
@names_argument
@dry_run_option
@json_option
def resume(names: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Let halted machines go on."""
    _for_each(names, "resume", lambda host, name: host.resume.aio(name), dry_run, as_json)


@libvirt.command()
@names_argument
@click.option("--mode", type=modes, default=Mode.ACPI.value, show_default=True, help="How guests are asked.")
@dry_run_option
@json_option
def reboot(names: tuple[str, ...], mode: str, dry_run: bool, as_json: bool) -> None:
    """Tell guests to start anew, or reset them by force."""
    how = Mode(mode)
    _for_each(names, f"reboot ({mode})", lambda host, name: host.reboot.aio(name, how), dry_run, as_json)


@libvirt.command()
@names_argument
@click.option("--mode", type=modes, default=Mode.ACPI.value, show_default=True, help="How guests are asked.")
@timeout_option(CALL_SECONDS)
@dry_run_option
@json_option
def stop(names: tuple[str, ...], mode: str, timeout: float, dry_run: bool, as_json: bool) -> None:
    """Stop machines, and wait until they have ended."""
    how = Mode(mode)

    def work(host: Libvirt, name: str) -> Awaitable[object]:
        return host.shutdown.aio(name, how, timeout=timeout)

    _for_each(names, f"stop ({mode})", work, dry_run, as_json)


@libvirt.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--force", is_flag=True, help="End them first if they run, without asking the guest.")
@dry_run_option
@json_option
def rm(names: tuple[str, ...], force: bool, dry_run: bool, as_json: bool) -> None:
    """Remove machines that have ended, with their overlays."""

    async def work(host: Libvirt, name: str) -> None:
        running = await host.state.aio(name) != ENDED
        await libvirt_machines.remove(host, name, force=force and running)

    _for_each(names, "remove", work, dry_run, as_json, gone=True)


@libvirt.command()
@click.argument("name")
def console(name: str) -> None:
    """Join this terminal with a machine's console; Ctrl-] leaves it."""
    with connect(_uri()) as host:
        if host.state(name) == ENDED:
            raise UnavailableError(f"machine {name!r} is not running", hint="start it first")
        if sys.stdin.isatty():
            click.echo(f"console of {name}; Ctrl-] leaves it", err=True)
        keyboard, screen = sys.stdin.fileno(), sys.stdout.fileno()
        with raw_terminal(keyboard):
            host.console(name, _Keyboard(keyboard).read, lambda data: _write(screen, data))


class _Keyboard:
    """What is typed, until the end or Ctrl-]."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._left = False

    def read(self) -> bytes:
        """What comes next; nothing at the end."""
        if self._left:
            return b""
        data, detached, _ = os.read(self._descriptor, READ_SIZE).partition(DETACH)
        self._left = bool(detached)
        return data


@libvirt.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document a line.")
def events(name: str | None, as_json: bool) -> None:
    """Print what happens to machines, or to NAME, until Ctrl-C."""
    with connect(_uri()) as host, host.events(name) as told:
        while True:
            event = told.next(timeout=EVENT_SECONDS)
            if event is not None and as_json:
                click.echo(json.dumps(asdict(event)))
            elif event is not None:
                click.echo(f"{event.machine}  {event.event}  {event.detail}".rstrip())


def _uri() -> str:
    """What `tdx vm --connect` was given."""
    context = click.get_current_context().parent
    assert context is not None, "the commands are those of a group"
    return str(context.params["connect"])


def _for_each(
    names: Sequence[str],
    doing: str,
    work: Callable[[Libvirt, str], Awaitable[object]],
    dry_run: bool,
    as_json: bool,
    *,
    gone: bool = False,
) -> None:
    """Do `work` on all the machines at once; one that fails does not keep the others from it."""
    chosen = unique(names)
    if dry_run:
        steps = [{"machine": name, "text": f"ask libvirt at {_uri()} to {doing} {name}"} for name in chosen]
        for step in [] if as_json else steps:
            click.echo(f"would  {step['machine']}: {step['text']}")
        if as_json:
            print_json({"steps": steps})
        return

    async def all_at_once(host: Libvirt) -> list[object]:
        return await asyncio.gather(*(work(host, name) for name in chosen), return_exceptions=True)

    with connect(_uri()) as host:
        results = interrupts.wait(lambda: all_at_once(host))
        failed = {
            name: result
            for name, result in zip(chosen, results, strict=True)
            if isinstance(result, BaseException)
        }
        good = [name for name in chosen if name not in failed]
        states = [] if gone else [{"name": name, "state": host.state(name)} for name in good]
    _raise_first(failed, len(chosen))
    if as_json:
        print_json({"removed": chosen} if gone else {"machines": states})


def _raise_first(failed: Mapping[str, BaseException], of: int) -> None:
    """Raise the one failure as it is; of several machines', say which and why."""
    for failure in failed.values():
        if not isinstance(failure, TdxError) or of == 1:
            raise failure
    if failed:
        told = "; ".join(f"{name}: {failure}" for name, failure in failed.items())
        raise CommandError(f"{len(failed)} of {of} machines: {told}")


def _write(screen: int, data: bytes) -> None:
    while data:
        data = data[os.write(screen, data) :]
