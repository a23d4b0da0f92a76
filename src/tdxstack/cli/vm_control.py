"""`tdx vm start`, `suspend`, `resume`, `reboot`, `stop` and `rm`: one or many machines at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import click

from tdxstack import interrupts
from tdxstack.cli import json_option, print_json
from tdxstack.cli.progress import ProgressDisplay, progress_display
from tdxstack.cli.this_machine import open_machine
from tdxstack.errors import CommandError, TdxError, UnavailableError
from tdxstack.machine import steps
from tdxstack.machine.control import RebootMode, StopMode
from tdxstack.machine.machine import BOOT_SECONDS, DOWN_SECONDS, MONITOR_SECONDS, Machine

SSH, AGENT = "ssh", "agent"

names_argument = click.argument("names", nargs=-1, metavar="[NAME]...")
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")


def timeout_option(seconds: float) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """Add `--timeout`."""
    return click.option(
        "--timeout", type=float, default=seconds, show_default=True, help="Seconds that it may take."
    )


@click.command()
@names_argument
@click.option(
    "--wait", "awaited", type=click.Choice([SSH, AGENT]), help="Until SSH, or the guest agent, answers."
)
@timeout_option(BOOT_SECONDS)
@dry_run_option
@json_option
def start(names: tuple[str, ...], awaited: str | None, timeout: float, dry_run: bool, as_json: bool) -> None:
    """Start machines that were created, or have ended, with their disks as they were left. [default: td]

    Returns once QEMU runs and answers, or with --wait once the guest does.
    """
    if dry_run:
        print_steps(names, lambda vm: steps.start(vm.files, vm.record), as_json)
        return

    async def begin(vm: Machine, display: ProgressDisplay) -> None:
        await vm.start.aio()
        if awaited == SSH:
            await vm.wait_for_ssh.aio(timeout=timeout, on_line=display.console_line)
        elif awaited == AGENT:
            await vm.wait_for_agent.aio(timeout=timeout, on_line=display.console_line)

    for_each(names, begin, "starting", as_json)


@click.command()
@names_argument
@timeout_option(MONITOR_SECONDS)
@dry_run_option
@json_option
def suspend(names: tuple[str, ...], timeout: float, dry_run: bool, as_json: bool) -> None:
    """Halt machines' vCPUs; their memory stays. [default: td]"""
    if dry_run:
        print_steps(names, lambda vm: steps.suspend(vm.files), as_json)
    else:
        for_each(names, lambda vm, _: vm.suspend.aio(timeout=timeout), "suspending", as_json)


@click.command()
@names_argument
@timeout_option(MONITOR_SECONDS)
@dry_run_option
@json_option
def resume(names: tuple[str, ...], timeout: float, dry_run: bool, as_json: bool) -> None:
    """Let halted machines go on. [default: td]"""
    if dry_run:
        print_steps(names, lambda vm: steps.resume(vm.files), as_json)
    else:
        for_each(names, lambda vm, _: vm.resume.aio(timeout=timeout), "resuming", as_json)


@click.command()
@names_argument
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in RebootMode]),
    default=RebootMode.SSH.value,
    show_default=True,
    help="Ask the guest by SSH, by the power button, or through its agent; or reset it: "
    "unwritten files are lost.",
)
@click.option("--force", is_flag=True, help="As --mode qmp.")
@timeout_option(BOOT_SECONDS)
@dry_run_option
@json_option
def reboot(
    names: tuple[str, ...], mode: str, force: bool, timeout: float, dry_run: bool, as_json: bool
) -> None:
    """Reboot machines, and wait until they can be entered. [default: td]

    A TD is built anew and measured anew; what software had extended into its registers is gone.
    """
    how = RebootMode.QMP if force else RebootMode(mode)
    if dry_run:
        print_steps(names, lambda vm: steps.reboot(vm.files, how, timeout), as_json)
    else:
        for_each(
            names,
            lambda vm, display: vm.reboot.aio(how, timeout=timeout, on_line=display.console_line),
            "rebooting",
            as_json,
        )


@click.command()
@names_argument
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in StopMode]),
    help="Only so: the power button, the guest agent, QEMU's monitor, or at all costs. "
    "[default: the power button, and by force after the time-out]",
)
@click.option("--force", is_flag=True, help="As --mode force: do not ask the guest.")
@timeout_option(DOWN_SECONDS)
@dry_run_option
@json_option
def stop(
    names: tuple[str, ...], mode: str | None, force: bool, timeout: float, dry_run: bool, as_json: bool
) -> None:
    """Stop machines; their disks and logs stay until `tdx vm rm`. [default: td]"""
    how = StopMode.FORCE if force else StopMode(mode) if mode else None
    if dry_run:
        print_steps(names, lambda vm: steps.stop(vm.files, how, timeout), as_json)
    else:
        for_each(names, lambda vm, _: vm.stop.aio(how, timeout=timeout), "stopping", as_json)


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--force", is_flag=True, help="End them first if they run, without asking the guest.")
@dry_run_option
@json_option
def rm(names: tuple[str, ...], force: bool, dry_run: bool, as_json: bool) -> None:
    """Remove machines that have ended, with their disks."""
    running = [name for name in names if open_machine(name).is_running]
    if running and not force:
        raise UnavailableError(
            f"machine {running[0]!r} is running", hint=f"stop it first: tdx vm stop {' '.join(running)}"
        )
    if dry_run:
        ended = StopMode.FORCE
        print_steps(
            names,
            lambda vm: [
                *(steps.stop(vm.files, ended, DOWN_SECONDS) if vm.is_running else []),
                *steps.remove(vm.files),
            ],
            as_json,
        )
    else:
        for_each(names, lambda vm, _: vm.remove.aio(), "removing", as_json, gone=True)


def for_each(
    names: Sequence[str],
    work: Callable[[Machine, ProgressDisplay], Awaitable[object]],
    doing: str,
    as_json: bool,
    *,
    gone: bool = False,
) -> None:
    """Do `work` on all the machines at once; print their states, or their names where they are `gone`.

    One that fails does not keep the others from it. Raises the error of the first, and says the others'.
    """
    chosen = [open_machine(name) for name in unique(names)]

    async def all_at_once(display: ProgressDisplay) -> list[object]:
        return await asyncio.gather(*(work(vm, display) for vm in chosen), return_exceptions=True)

    with progress_display() as display:
        display.report(f"{doing} {', '.join(vm.name for vm in chosen)}", None)
        results = interrupts.wait(lambda: all_at_once(display))
    failures = [
        (vm, result) for vm, result in zip(chosen, results, strict=True) if isinstance(result, BaseException)
    ]
    raise_first(failures, len(chosen))
    if as_json and gone:
        print_json({"removed": [vm.name for vm in chosen]})
    elif as_json:
        print_json({"machines": [{"name": vm.name, "state": vm.state()} for vm in chosen]})


def raise_first(failures: Sequence[tuple[Machine, BaseException]], of: int) -> None:
    """Raise the one failure as it is; of several machines', say which and why."""
    for _, failure in failures:
        if not isinstance(failure, TdxError):
            raise failure
    if failures and of == 1:
        raise failures[0][1]
    if failures:
        told = "; ".join(f"{vm.name}: {failure}" for vm, failure in failures)
        hints = [failure.hint for _, failure in failures if isinstance(failure, TdxError)]
        raise CommandError(f"{len(failures)} of {of} machines: {told}", hint=hints[0])


def print_steps(names: Sequence[str], plan: Callable[[Machine], list[str]], as_json: bool) -> None:
    """What would be done to each of the machines."""
    planned = {name: plan(open_machine(name)) for name in unique(names)}
    if as_json:
        print_json(steps_document(planned))
        return
    for name, told in planned.items():
        for step in told:
            click.echo(f"would  {name}: {step}")


def steps_document(planned: Mapping[str, Sequence[str]]) -> dict[str, object]:
    """The steps of each machine, as JSON has them."""
    return {"steps": [{"machine": name, "text": step} for name, told in planned.items() for step in told]}


def unique(names: Sequence[str]) -> list[str]:
    """The machines that are meant, each once: `td` where none is named."""
    return list(dict.fromkeys(names)) or ["td"]
