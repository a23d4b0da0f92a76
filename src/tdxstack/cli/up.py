"""`tdx up` and `tdx down`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from tdxstack.cli import EXISTING_FILE, json_option, print_json
from tdxstack.cli.edge import mirror_options, prepare_host, surroundings, yes_option
from tdxstack.cli.progress import progress_display
from tdxstack.cli.render import checks_table, print_rejection, print_verdict, registers_table
from tdxstack.cli.source import Source
from tdxstack.cli.sudo import become_invoking_user
from tdxstack.machine.control import StopMode
from tdxstack.machine.spec_parts import PageTracking
from tdxstack.machine.spec_values import mebibytes
from tdxstack.platform import Platform, choose_platform
from tdxstack.workflows.machines import Machines
from tdxstack.workflows.plan import plan_up
from tdxstack.workflows.up import UpRequest, UpResult, bring_up


def _read_memory(_context: click.Context, _parameter: click.Parameter, value: str) -> int:
    try:
        return mebibytes(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.option("--name", default="td", show_default=True, help="Name of the machine.")
@click.option(
    "--platform",
    type=click.Choice([platform.value for platform in Platform]),
    help="Run on TDX hardware or emulated. [default: hardware where KVM offers it, else emulated]",
)
@click.option("--vcpus", default=2, show_default=True, help="Virtual CPUs.")
@click.option(
    "--memory",
    "memory_mib",
    default="2G",
    show_default=True,
    callback=_read_memory,
    help="Memory, as 2G or a number of MiB.",
)
@mirror_options
@click.option("--firmware", type=EXISTING_FILE, help="TDVF file to boot.")
@click.option("--image", default="", metavar="NAME", help="Image to boot, from `tdx image list`.")
@click.option("--emulator-version", default="", help="Pinned QEMU release to build the emulator of.")
@click.option(
    "--source",
    type=EXISTING_FILE,
    help="QEMU source tarball to build the emulator of.",
)
@click.option(
    "--collateral",
    type=EXISTING_FILE,
    help="Collateral to verify a hardware quote with, in any form that `tdx collateral` reads.",
)
@click.option(
    "--fetch", is_flag=True, help="Fetch the collateral of a hardware quote from Intel's service (PCS)."
)
@click.option("--debug", is_flag=True, help="Set the TD's DEBUG attribute; verification then rejects it.")
@click.option("--ve", is_flag=True, help="Emulated: inject #VE as the TDX module does.")
@click.option(
    "--sept",
    type=click.Choice([tracking.value for tracking in PageTracking]),
    default=PageTracking.OFF.value,
    show_default=True,
    help="Emulated: track private and shared pages; `on` ends the TD on a wrong use, `log` reports it.",
)
@yes_option
@click.option("--dry-run", is_flag=True, help="Say what would be fetched, built and run, and do none of it.")
@json_option
def up(
    name: str,
    platform: str | None,
    vcpus: int,
    memory_mib: int,
    mirror: str,
    require_fresh: bool,
    firmware: Path | None,
    image: str,
    emulator_version: str,
    source: Path | None,
    collateral: Path | None,
    fetch: bool,
    debug: bool,
    ve: bool,
    sept: str,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Boot a TD, measure it, have it prove what it booted, and verify the proof.

    Everything that is missing is fetched and built first. The TD runs on afterwards: enter it with
    `tdx vm ssh`, end it with `tdx down`. The exit code is 0 only if every check passed.
    """
    request = UpRequest(
        name=name,
        platform=Platform(platform) if platform else None,
        vcpus=vcpus,
        memory_mib=memory_mib,
        mirror=mirror,
        require_fresh=require_fresh,
        emulator_version=emulator_version,
        emulator_source=source,
        firmware=firmware,
        image=image,
        collateral=collateral,
        collateral_client=Source().client() if fetch else None,
        debug=debug,
        ve=ve,
        sept=PageTracking(sept),
    )
    if dry_run:
        become_invoking_user()
        steps = plan_up(request, surroundings())
        if as_json:
            print_json({"steps": [step.to_json() for step in steps]})
        else:
            for step in steps:
                click.echo(f"{'would' if step.needed else 'have'}  {step.text}")
        return 0
    with progress_display() as display:
        choice = choose_platform(surroundings().host, request.platform)
        display.note(f"platform: {choice.platform.value} ({choice.reason})")
        purposes = ["emulator", "image"] if choice.emulated else ["image"]
        prepare_host(purposes, yes=yes, report=display.report, note=display.note)
        result = bring_up(request, surroundings(), display.report, display.console_line)
        for warning in result.warnings:
            display.note(f"warning: {warning}")
    if as_json:
        print_json(result.to_json())
    else:
        _print_result(result)
    return 0 if result.every_check_passed else 1


def _print_result(result: UpResult) -> None:
    console = Console()
    print_rejection(console, result.verification.checks)
    console.print(checks_table(result.verification.checks, brief=True))
    console.print()
    console.print(registers_table(result.verification.registers))
    console.print()
    print_verdict(console, result.verification.verdict, emulated=result.choice.emulated)
    name, program = result.machine.name, click.get_current_context().find_root().info_name
    for what, command in (("enter", "vm ssh"), ("evidence", "evidence show"), ("end", "down")):
        console.print(f"{what + ':':<9} {program} {command} {name}", highlight=False)


@click.command()
@click.argument("name", default="td")
@click.option("--force", is_flag=True, help="Do not ask the guest first.")
@json_option
def down(name: str, force: bool, as_json: bool) -> None:
    """Stop a machine and remove its disk, evidence and logs.

    The quote generation service ends by itself when no TD needs it any more.
    """
    machine = Machines(surroundings()).open(name)
    with progress_display() as display:
        display.report(f"stopping {name}", None)
        machine.remove(StopMode.FORCE if force else None)
    if as_json:
        print_json({"removed": name})
