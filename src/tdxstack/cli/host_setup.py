"""`tdx host setup`: make this machine ready for TDs."""

from __future__ import annotations

import os
import sys

import click
from rich.console import Console

from tdxstack.cli import json_option, print_json
from tdxstack.cli.render import checks_table
from tdxstack.errors import UnavailableError, UsageError
from tdxstack.host.setup import LOG, STATE, apply_plan, blocked, undo_plan, undo_setup, with_interrupted
from tdxstack.host.setup_distribution import distribution_of
from tdxstack.host.setup_plan import Options, SetupPlan, plan_setup, ready_checks
from tdxstack.host.setup_system import RealSystem
from tdxstack.verification.result import Status

ROUNDS = 3
"""What packages bring along may need a further look: QGS's configuration, groups."""


@click.command()
@click.option(
    "--kernel",
    default="",
    metavar="RELEASE",
    help="An installed kernel of your own, as in /boot/vmlinuz-RELEASE.",
)
@click.option("--user", default="", metavar="NAME", help="Who is to run TDs. [default: who called sudo]")
@click.option("--pccs", is_flag=True, help="Also install the PCCS, where a configured repository has it.")
@click.option(
    "--register", is_flag=True, help="Also install the service that registers the platform with Intel."
)
@click.option("--undo", is_flag=True, help="Undo what this command has done.")
@click.option("--yes", is_flag=True, help="Do what the plan says without asking.")
@click.option("--dry-run", is_flag=True, help="Print the plan, and do nothing.")
@json_option
@click.pass_context
def setup(
    context: click.Context,
    kernel: str,
    user: str,
    pccs: bool,
    register: bool,
    undo: bool,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make this machine a TDX host, with its distribution's packages.

    Shows a plan with every file and command, and asks before it does anything: packages (kernel, QEMU,
    TDVF, libvirt, and QGS where a configured repository has it), kernel parameters, KVM's parameter,
    groups, QGS's socket. Repositories are never added. Run it again after the reboot it asks for, or
    after an interruption: it goes on where it was. --undo takes everything back.

    Exit code 3 where this machine or its distribution cannot be made ready; 1 where all is done and the
    host is still not ready. The BIOS has to be set by hand: see `tdx doctor`.
    """
    system = RealSystem(LOG)
    if undo:
        if kernel or user or pccs or register:
            raise UsageError("--undo takes --yes, --dry-run and --json only", hint="tdx host setup --undo")
        _undo(system, yes=yes, dry_run=dry_run, as_json=as_json)
        return
    options = Options(kernel, user or _caller(), pccs, register)
    distribution = distribution_of(system)
    applied: list[str] = []
    for _ in range(ROUNDS):
        plan = with_interrupted(plan_setup(system, distribution, options, os.uname().release), STATE)
        if not as_json and (plan.steps or plan.blockers or not applied):
            _show(plan)
        if plan.blockers:
            if as_json:
                print_json(_document(plan, applied))
                context.exit(blocked(plan).exit_code)
            raise blocked(plan)
        if dry_run or not plan.steps:
            break
        _consent(yes, "Do this?")
        apply_plan(plan, system, STATE, lambda text: click.echo(text, err=True))
        applied += [step.id for step in plan.steps]
    if as_json:
        print_json(_document(plan, applied))
    if dry_run:
        return
    _conclude(context, system, plan, as_json)


def _conclude(context: click.Context, system: RealSystem, plan: SetupPlan, as_json: bool) -> None:
    """Say what is left when all steps are done: a reboot, or nothing."""
    checks = ready_checks(system)
    ready = all(check.status is Status.OK for check in checks)
    if not as_json:
        Console(soft_wrap=True).print(checks_table(checks))
        if ready:
            click.echo("this host offers TDs; `tdx doctor` looks at the rest")
        elif plan.reboot:
            click.echo(f"reboot, then run this again: {'; '.join(plan.reboot)}")
        else:
            click.echo("all is set up, and this host does not offer TDs: `tdx doctor` says why")
    if not ready and not plan.reboot:
        context.exit(1)


def _undo(system: RealSystem, *, yes: bool, dry_run: bool, as_json: bool) -> None:
    rows = undo_plan(STATE)
    if as_json:
        print_json({"undo": [{"id": entry.id, "changes": changes} for entry, changes in rows]})
    else:
        for entry, changes in rows:
            click.echo("\n".join([f"undo {entry.id}", *(f"    {line}" for line in changes)]))
    if dry_run:
        return
    _consent(yes, "Undo this?")
    undo_setup(system, STATE, lambda text: click.echo(text, err=True))
    click.echo("undone; reboot to leave the kernel parameters behind", err=True)


def _consent(yes: bool, question: str) -> None:
    """Go on only as root, and only if somebody agrees."""
    if os.geteuid() != 0:
        raise UnavailableError("only root can do this", hint="run it with sudo")
    if yes:
        return
    if not sys.stdin.isatty():
        raise UnavailableError(
            "nobody is there to be asked", hint="read the plan with --dry-run, then add --yes"
        )
    if not click.confirm(question, err=True):
        raise click.Abort


def _caller() -> str:
    name = os.environ.get("SUDO_USER", "")
    return "" if name == "root" else name


def _show(plan: SetupPlan) -> None:
    click.echo(f"{plan.distribution.described}, kernel {plan.kernel}")
    for step in plan.steps:
        click.echo(f"\n{step.id}: {step.why}")
        click.echo("\n".join(f"    {line}" for line in step.changes()))
    if not plan.steps:
        click.echo("nothing is left to do")
    for note in plan.notes:
        click.echo(f"\nnote: {note}")
    for blocker in plan.blockers:
        click.echo(f"\nstops here: {blocker.problem}")


def _document(plan: SetupPlan, applied: list[str]) -> dict[str, object]:
    return {
        "distribution": plan.distribution.described,
        "kernel": plan.kernel,
        "steps": [{"id": step.id, "why": step.why, "changes": step.changes()} for step in plan.steps],
        "blockers": [{"problem": one.problem, "hint": one.hint} for one in plan.blockers],
        "notes": list(plan.notes),
        "reboot": list(plan.reboot),
        "applied": applied,
    }
