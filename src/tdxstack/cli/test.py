"""`tdx test`: the acceptance suite on this host."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tdxstack.cli import json_option, print_json
from tdxstack.cli.edge import prepare_host, surroundings, yes_option
from tdxstack.cli.prediction_matrix import run_matrix
from tdxstack.cli.progress import progress_display
from tdxstack.cli.styles import STYLES
from tdxstack.cli.sudo import become_invoking_user
from tdxstack.errors import UnavailableError, UsageError
from tdxstack.platform import Platform, PlatformChoice, choose_platform
from tdxstack.terminal import printable
from tdxstack.verification.result import Status

if TYPE_CHECKING:
    from tdxstack.testing.suite import Case, SuiteResult


@click.command()
@click.argument("selection", nargs=-1)
@click.option(
    "--platform",
    type=click.Choice([platform.value for platform in Platform]),
    help="Run on TDX hardware or emulated. [default: hardware where KVM offers it, else emulated]",
)
@click.option("--list", "--dry-run", "only_list", is_flag=True, help="List the cases, and run none.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Also write a JUnit file.")
@click.option("--keep-failed", is_flag=True, help="Leave the machines running where a case has failed.")
@click.option(
    "--matrix",
    is_flag=True,
    help="Instead, boot a matrix of emulated TDs and compare each with its prediction.",
)
@yes_option
@json_option
def test(
    selection: tuple[str, ...],
    platform: str | None,
    only_list: bool,
    junit: Path | None,
    keep_failed: bool,
    matrix: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Find out whether machines work on this host: the acceptance suite.

    TDs, EFI and legacy machines are started, used, rebooted and ended, and TDs have to prove what they
    booted. A SELECTION is part of a case's name; without one all cases run. Machines have a directory of
    their own, which is removed at the end. The exit code is 0 only if every case that applies has passed.
    """
    if matrix:
        if junit or keep_failed or platform == Platform.HARDWARE.value:
            raise UsageError(
                "--matrix boots emulated TDs, keeps none and writes no JUnit file",
                hint="leave out --junit, --keep-failed and --platform hardware",
            )
        return run_matrix(selection, only_list=only_list, yes=yes, as_json=as_json)
    if importlib.util.find_spec("pytest") is None:
        raise UnavailableError(
            "the acceptance suite needs pytest, which is not installed",
            hint="install it beside tdxstack: pip install 'tdxstack[test]'",
        )
    from tdxstack.testing.suite import list_cases, run_cases

    choice = choose_platform(surroundings().host, Platform(platform) if platform else None)
    if only_list:
        become_invoking_user()
        _print_list(list_cases(choice, selection), as_json=as_json)
        return 0
    with progress_display() as display:
        display.note(f"platform: {choice.platform.value} ({choice.reason})")
        purposes = ["emulator", "image"] if choice.emulated else ["image"]
        prepare_host(purposes, yes=yes, report=display.report, note=display.note)
    result = run_cases(
        choice,
        selection,
        keep_failed=keep_failed,
        junit=junit.absolute() if junit else None,
        on_start=lambda case: click.echo(f"{case} ... ", err=True, nl=False),
        on_end=_say_end,
    )
    if result.kept:
        click.echo(f"machines were kept; see them with: {result.kept.command('vm', 'list')}", err=True)
    if as_json:
        print_json(_document(choice, result))
    else:
        _print_result(choice, result)
    return 0 if result.passed else 1


def _say_end(case: Case) -> None:
    click.echo(f"{case.status.value} ({case.seconds:.1f} s)", err=True)
    if case.output:
        click.echo("\n".join(printable(line) for line in case.output.splitlines()), err=True)


def _print_list(cases: list[Case], *, as_json: bool) -> None:
    if as_json:
        keys = ("id", "about", "markers", "detail")
        print_json({"cases": [{key: case.to_json()[key] for key in keys} for case in cases]})
        return
    table = Table("CASE", "ABOUT", box=None, pad_edge=False)
    for case in cases:
        table.add_row(Text(case.id), Text(f"{case.about}{f' ({case.detail})' if case.detail else ''}"))
    Console().print(table)


def _document(choice: PlatformChoice, result: SuiteResult) -> dict[str, object]:
    return {
        "passed": result.passed,
        "emulated": choice.emulated,
        "platform": {"name": choice.platform.value, "reason": choice.reason},
        "counts": {status.value: result.count(status) for status in Status if result.count(status)},
        "cases": [case.to_json() for case in result.cases],
        "kept": result.kept.settings if result.kept else None,
    }


def _print_result(choice: PlatformChoice, result: SuiteResult) -> None:
    console = Console()
    table = Table("CASE", "STATUS", "SECONDS", "DETAIL", box=None, pad_edge=False)
    for case in result.cases:
        style = STYLES[case.status]
        table.add_row(
            Text(case.id),
            f"[{style}]{case.status.value}[/]",
            f"{case.seconds:.1f}",
            Text(printable(case.detail)),
        )
    console.print(table)
    numbers = ", ".join(
        f"{result.count(status)} {status.value.replace('_', ' ')}"
        for status in Status
        if result.count(status)
    )
    mark = "  [bold yellow]emulated: these TDs are not protected[/]" if choice.emulated else ""
    console.print(f"\n{numbers}{mark}", highlight=False)
