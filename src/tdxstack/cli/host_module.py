"""`tdx host module`: TDX module files, and the module that runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from tdxstack.cli import EXISTING_FILE, json_option, print_json
from tdxstack.cli.render import checks_table
from tdxstack.errors import RejectedError, UnavailableError, UsageError
from tdxstack.host.module import (
    MappedRelease,
    ModuleFile,
    Releases,
    check_file,
    cpu_name,
    parse_mapping,
    read_module,
)
from tdxstack.host.module_plan import BOOT, REFUSED, RUNTIME, ModulePlan, plan_update
from tdxstack.host.module_running import UPDATE_INTERFACE, RunningModule, ask_running
from tdxstack.host.module_stage import (
    Target,
    boot_targets,
    find_esp,
    stage,
    unstage,
    update_image,
    update_running,
)
from tdxstack.host_access import RealHost
from tdxstack.verification.result import Check, Status

STATE = Path("/var/lib/tdxstack/module")
"""Only root can write an EFI system partition."""

METHODS = {
    RUNTIME: "while the system runs (TDs pause and go on): tdx host module stage --runtime FILE",
    BOOT: "at the next boot, from the EFI system partition: tdx host module stage FILE",
    REFUSED: "not at all: see the checks that failed",
}

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group()
def module() -> None:
    """Identify, compare and install TDX modules."""


def module_options(command: Command) -> Command:
    """Add `--sigstruct` and `--mapping`."""
    command = click.option(
        "--mapping",
        type=EXISTING_FILE,
        help="Intel's mapping_file.json: which versions can be replaced at run time.",
    )(command)
    return click.option(
        "--sigstruct",
        type=EXISTING_FILE,
        help="The module's sigstruct. [default: FILE.sigstruct, or FILE's name with .sigstruct]",
    )(command)


@module.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--sigstruct", type=EXISTING_FILE, help="Its sigstruct.")
@json_option
@click.pass_context
def show(context: click.Context, file: Path | None, sigstruct: Path | None, as_json: bool) -> None:
    """Show what a TDX module FILE is; without FILE, what this host says of the module that runs.

    FILE is a .blob, or a module (.so, .bin) whose sigstruct is beside it. Version, SVN, MRSEAM, signer,
    the CPUs it is for, and whether the signature and the hash hold. Exit code 1 if they do not, or if no
    module is known to run.
    """
    releases = Releases.load()
    if file is None:
        running = ask_running(RealHost(), releases)
        _show_running(running, as_json)
        if not running.version:
            context.exit(1)
        return
    one = read_module(file, sigstruct, releases)
    checks = check_file(one, releases)
    if as_json:
        print_json(_module_document(one) | {"checks": [check.to_json() for check in checks]})
    else:
        _show_module(one)
        Console(soft_wrap=True).print(checks_table(checks))
    if any(check.status is Status.FAIL for check in checks):
        context.exit(1)


@module.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@module_options
@json_option
@click.pass_context
def plan(
    context: click.Context, file: Path, sigstruct: Path | None, mapping: Path | None, as_json: bool
) -> None:
    """Say what installing a TDX module FILE on this host would change, and how it can be installed.

    Exit code 1 if it must not be: a wrong hash or signature, a CPU it is not for, or a lower SVN.
    """
    made = _plan(file, sigstruct, mapping)
    if as_json:
        print_json(_plan_document(made))
    else:
        _show_plan(made)
    if made.method == REFUSED:
        context.exit(1)


@module.command("stage")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@module_options
@click.option(
    "--esp",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Where the EFI system partition is mounted. [default: found]",
)
@click.option("--runtime", is_flag=True, help="Replace the running module now, through the kernel.")
@click.option("--undo", is_flag=True, help="Put back what staging has replaced.")
@click.option("--dry-run", is_flag=True, help="Print what would be written, and write nothing.")
@json_option
def stage_module(
    file: Path | None,
    sigstruct: Path | None,
    mapping: Path | None,
    esp: Path | None,
    runtime: bool,
    undo: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Install a TDX module FILE: for the next boot, or with --runtime into the running system.

    For the next boot it is written to the EFI system partition: EFI/TDX/TDX-SEAM.so and its sigstruct,
    which the BIOS's SEAM loader reads, or TDX-BLOB beside TdxModuleLoader.efi where a boot loader runs
    that. What was there is kept, and --undo puts it back. Refused: a module whose hash or signature does
    not hold, that is not for this CPU, or that lowers the SVN. Needs root.
    """
    if undo:
        if file or runtime or dry_run:
            raise UsageError(
                "--undo takes no module and no other option", hint="tdx host module stage --undo"
            )
        _say([f"restored {path}" for path in unstage(STATE)], "restored", as_json)
        return
    if file is None:
        raise UsageError("no module was given", hint="tdx host module stage FILE, or --undo")
    made = _plan(file, sigstruct, mapping)
    if made.refusals:
        reasons = "; ".join(f"{check.id}: {check.detail or check.found}" for check in made.refusals)
        raise RejectedError(f"{file} must not be installed: {reasons}", hint=f"tdx host module plan {file}")
    if runtime:
        _update(made, dry_run, as_json)
        return
    targets = boot_targets(made.module, esp or find_esp(RealHost()))
    if dry_run:
        _show_targets(targets, as_json)
        return
    written = stage(targets, STATE)
    done = [f"wrote {path}" for path in written] or ["nothing to do: the module is staged already"]
    _say(
        [*done, "reboot to load it; `tdx host module stage --undo` puts back what was there"],
        "written",
        as_json,
    )


def _update(made: ModulePlan, dry_run: bool, as_json: bool) -> None:
    if made.method != RUNTIME:
        bad = [
            check
            for check in made.checks
            if check.id.startswith("runtime.") and check.status is not Status.OK
        ]
        reasons = "; ".join(f"{check.id}: {check.detail or check.found}" for check in bad)
        raise UnavailableError(
            f"the running module cannot be replaced by {made.module.version}: {reasons}",
            hint="stage it for the next boot: leave out --runtime",
        )
    image = update_image(made.module)
    if dry_run:
        _say(
            [f"would write {len(image)} bytes (blob 2.0) to {UPDATE_INTERFACE}/data"], "would_write", as_json
        )
        return
    update_running(image, Path(UPDATE_INTERFACE), sleep=time.sleep)
    now = ask_running(RealHost(), Releases.load())
    _say([f"the running TDX module is now {now.version or made.module.version}"], "running", as_json)


def _plan(file: Path, sigstruct: Path | None, mapping: Path | None) -> ModulePlan:
    releases = Releases.load()
    one = read_module(file, sigstruct, releases)
    mapped: dict[tuple[int, ...], MappedRelease] | None = (
        parse_mapping(mapping.read_bytes()) if mapping else None
    )
    return plan_update(one, ask_running(RealHost(), releases), releases, mapped)


def _say(lines: list[str], key: str, as_json: bool) -> None:
    if as_json:
        print_json({key: lines})
    else:
        click.echo("\n".join(lines))


def _show_module(one: ModuleFile) -> None:
    known = "published by Intel" if one.release else "by the file's name only"
    minor, major = one.svn
    rows = {
        "file": f"{one.path} ({one.form})",
        "version": f"{one.version} ({known})"
        if one.version
        else "unknown to tdxstack, and the name does not say",
        "built": str(one.sigstruct.built or f"{one.sigstruct.build_date:08x}"),
        "svn": f"{minor} of line {major} (TEE_TCB_SVN {minor:02x} {major:02x})",
        "mrseam": one.mrseam.hex(),
        "signer": one.signer,
        "attributes": f"0x{one.sigstruct.attributes:016x}",
        "size": f"{len(one.module)} bytes",
        "cpus": ", ".join(cpu_name(cpu) for cpu in one.sigstruct.cpuid_table) or "any (debug modules only)",
    }
    for key, value in rows.items():
        click.echo(f"{key:11}{value}")


def _show_running(running: RunningModule, as_json: bool) -> None:
    if as_json:
        print_json(_running_document(running))
        return
    left = running.remaining_updates
    rows = {
        "version": f"{running.version} ({running.known_from})" if running.version else "unknown",
        "svn": f"{running.svn[0]} of line {running.svn[1]}" if running.svn else "unknown",
        "SEAM loader": running.seamldr_version or "unknown",
        "runtime update": "offered" if running.runtime_update else "not offered by this kernel",
        "updates left": "unknown" if left is None else str(left),
        "cpu": cpu_name(running.cpu) if running.cpu else "unknown",
    }
    for key, value in rows.items():
        click.echo(f"{key:16}{value}")
    for name, reason in running.reasons.items():
        click.echo(f"{name}: {reason}", err=True)


def _show_plan(made: ModulePlan) -> None:
    running = made.running.version or "unknown"
    click.echo(f"running   {running}")
    click.echo(f"new       {made.module.version or 'unknown'}  MRSEAM {made.module.mrseam.hex()}")
    click.echo(
        "TDs that start afterwards have the new MRSEAM and SVN in their quotes: policies have to know them."
    )
    Console(soft_wrap=True).print(checks_table(made.checks))
    click.echo(f"install   {METHODS[made.method]}")


def _show_targets(targets: tuple[Target, ...], as_json: bool) -> None:
    rows = [{"path": str(one.path), "action": one.action, "size": len(one.data)} for one in targets]
    if as_json:
        print_json({"files": rows})
        return
    for row in rows:
        click.echo(f"would {row['action']} {row['path']} ({row['size']} bytes)")


def _module_document(one: ModuleFile) -> dict[str, object]:
    return {
        "file": str(one.path),
        "form": one.form,
        "version": one.version,
        "published": one.release is not None,
        "built": str(one.sigstruct.built) if one.sigstruct.built else None,
        "svn": {"minor": one.svn[0], "major": one.svn[1]},
        "mrseam": one.mrseam.hex(),
        "signer": one.signer,
        "debug": one.sigstruct.debug_signed,
        "attributes": f"0x{one.sigstruct.attributes:016x}",
        "size": len(one.module),
        "cpus": [{"cpuid": f"0x{cpu:x}", "name": cpu_name(cpu)} for cpu in one.sigstruct.cpuid_table],
    }


def _running_document(running: RunningModule) -> dict[str, object]:
    svn: Mapping[str, int] | None = (
        {"minor": running.svn[0], "major": running.svn[1]} if running.svn else None
    )
    return {
        "version": running.version or None,
        "known_from": running.known_from or None,
        "svn": svn,
        "seamldr_version": running.seamldr_version or None,
        "remaining_updates": running.remaining_updates,
        "runtime_update": running.runtime_update,
        "cpu": {"cpuid": f"0x{running.cpu:x}", "name": cpu_name(running.cpu)} if running.cpu else None,
        "unknown": dict(running.reasons),
    }


def _plan_document(made: ModulePlan) -> dict[str, object]:
    checks: tuple[Check, ...] = made.checks
    return {
        "method": made.method,
        "module": _module_document(made.module),
        "running": _running_document(made.running),
        "checks": [check.to_json() for check in checks],
    }
