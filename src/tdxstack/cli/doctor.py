"""`tdx doctor`: whether this host can run TDs, and what to do where it cannot."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tdxstack.cli import json_option, print_json
from tdxstack.cli.styles import STYLES
from tdxstack.cli.this_host import circumstances, real_host
from tdxstack.host.chain import CHAIN, check_named
from tdxstack.host.check import Circumstances
from tdxstack.host.diagnosis import Diagnosis, Result, diagnose
from tdxstack.host.recording import Recorder
from tdxstack.host.summary import counts, explain, headline, to_json
from tdxstack.terminal import printable
from tdxstack.verification.result import Status

QUIET = (Status.OK, Status.NOT_APPLICABLE)


@click.command()
@click.option("--network", is_flag=True, help="Also ask servers on other machines, such as a remote PCCS.")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, exists=True),
    help="Examine a report that `tdx host report` made elsewhere, not this machine.",
)
@click.option("--all", "everything", is_flag=True, help="List every check, also those that are in order.")
@click.option(
    "--explain", "explained", metavar="ID", help="Say what one check is about, and examine nothing."
)
@json_option
def doctor(network: bool, source: Path | None, everything: bool, explained: str, as_json: bool) -> None:
    """Say whether this host can run TDs and have them attested, and what to repair first.

    Nothing is changed, and without --network nothing leaves the machine. As root it sees more. The exit code
    is 0 where the host is ready, and 1 where it is not or lacks a CPU with TDX.
    """
    if explained:
        _explain(explained, as_json=as_json)
        return
    around, host, taken = _of_report(source) if source else _of_this_machine(network)
    diagnosis = diagnose(host, around, CHAIN)
    if as_json:
        print_json(to_json(diagnosis, host, around, recorded=taken))
    else:
        _print(diagnosis, everything=everything)
    raise SystemExit(0 if diagnosis.ready else 1)


def _of_this_machine(network: bool) -> tuple[Circumstances, Recorder, None]:
    return circumstances(network=network), Recorder(real_host()), None


def _of_report(path: Path) -> tuple[Circumstances, Recorder, datetime]:
    from tdxstack.host.report import read  # takes long to import, and few need it

    recording = read(path)
    return recording.circumstances, recording.host, recording.circumstances.now


def _explain(name: str, *, as_json: bool) -> None:
    document = explain(check_named(name))
    if as_json:
        print_json(document)
        return
    for key, value in document.items():
        text = ", ".join(value) if isinstance(value, list) else value
        if text:
            click.echo(f"{key.replace('_', ' ') + ':':<11} {text}")


def _print(diagnosis: Diagnosis, *, everything: bool) -> None:
    console = Console()
    console.print(Text(printable(headline(diagnosis)), style="bold"), soft_wrap=True)
    cause = diagnosis.first_cause
    if cause and cause.finding.fix and cause.status is Status.FAIL:
        console.print(Text(f"fix: {printable(cause.finding.fix)}"), soft_wrap=True)
        console.print(Text(f"see: {cause.check.link}"), soft_wrap=True)
    shown = [one for one in diagnosis.results if everything or not (one.status in QUIET or one.implied_by)]
    if shown:
        console.print()
        console.print(_table(shown, cause))
    numbers = ", ".join(
        f"{number} {name.replace('_', ' ')}" for name, number in counts(diagnosis.results).items()
    )
    hint = "" if everything else "; --all lists them"
    console.print(f"\n{numbers}{hint}", highlight=False)


def _table(results: list[Result], first_cause: Result | None) -> Table:
    table = Table("CHECK", "STATUS", "FOUND", box=None, pad_edge=False)
    for result in results:
        style = STYLES[result.status]
        table.add_row(
            result.id, f"[{style}]{result.status.value}[/]", _story(result, fix=result is not first_cause)
        )
    return table


def _story(result: Result, *, fix: bool) -> Text:
    """What was found, and what to do (`fix`) unless another check has to pass first."""
    finding = result.finding
    if result.status in QUIET:
        return Text(printable(finding.found or finding.cause), style="dim")
    if result.because_of:
        return Text(
            f"because of {result.because_of}: {printable(finding.found or finding.cause)}", style="dim"
        )
    if result.implied_by:
        return Text(f"not seen, but {result.implied_by} shows that it is in order", style="dim")
    label = "to see it" if result.status is Status.UNKNOWN else "fix"
    parts = [finding.found, finding.cause, f"{label}: {finding.fix}" if fix and finding.fix else ""]
    return Text(printable("; ".join(part for part in parts if part)))
