"""`tdx collateral`: what verifying a quote needs besides the quote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from tdxstack.abi.quote import Quote
from tdxstack.cli import EXISTING_FILE, json_option, print_json
from tdxstack.cli.collateral_tables import day, print_contents, summary_table, title
from tdxstack.cli.edge import now
from tdxstack.cli.evidence_input import read_evidence
from tdxstack.cli.output import STDOUT, write_output
from tdxstack.cli.progress import progress_display
from tdxstack.cli.source import Source, source_options
from tdxstack.cli.verification_options import read_time
from tdxstack.collateral.bundle import Collateral
from tdxstack.collateral.fetch import fetch_collateral, planned_urls
from tdxstack.collateral.platform_id import CAS, PLATFORM_CA, TDX, TEES, PlatformId, subjects_of
from tdxstack.collateral.reading import MAX_SIZE, newest_of_each, read_all
from tdxstack.collateral.writing import FORMS, OWN, write_collateral
from tdxstack.errors import UsageError
from tdxstack.verification.contents import Contents
from tdxstack.verification.quoted_platform import platform_of_quote

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group()
def collateral() -> None:
    """Fetch, show and convert collateral: what verifying a quote needs besides the quote."""


def output_options(command: Command) -> Command:
    """Add `--output` and `--to`."""
    command = click.option(
        "-o", "--output", metavar="FILE", default=STDOUT, help="File to write. [default: standard output]"
    )(command)
    return click.option(
        "--to",
        "form",
        type=click.Choice(FORMS),
        default=OWN,
        show_default=True,
        help="tdxstack's own form, dcap-qvl's QuoteCollateralV3, or that of Intel's PCS client tool.",
    )(command)


@collateral.command()
@click.argument("quote", required=False)
@click.option("--fmspc", metavar="HEX", help="FMSPC of the platform, without a quote: 12 digits.")
@click.option(
    "--ca",
    type=click.Choice(CAS),
    help=f"CA of its PCK certificates. [default: {PLATFORM_CA}, as of every TDX server]",
)
@click.option(
    "--tee", type=click.Choice([tee.lower() for tee in TEES]), help="Quotes to verify. [default: tdx]"
)
@source_options
@output_options
@click.option("--dry-run", is_flag=True, help="Print the addresses that would be asked.")
@json_option
def fetch(
    quote: str | None,
    fmspc: str | None,
    ca: str | None,
    tee: str | None,
    source: Source,
    output: str,
    form: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Fetch collateral for QUOTE, or for the platform with --fmspc.

    QUOTE is a file in binary, hex or base64, or - for standard input. What is fetched is kept, and not asked
    for again before a day has passed, the source says so, or it is out of date.
    """
    _one_stdout(output, as_json and not dry_run)
    platform = _platform(quote, fmspc, ca, tee)
    if dry_run:
        urls = planned_urls(platform, source.service, source.evaluation)
        if as_json:
            print_json({"urls": list(urls), "output": output})
        else:
            target = "to standard output" if output == STDOUT else output
            click.echo("".join(f"would fetch  {url}\n" for url in urls) + f"would write  {target}")
        return
    with progress_display() as display:
        fetched = fetch_collateral(platform, source.client(display.report, display.note), source.evaluation)
    _write((fetched,), output, form, as_json)


@collateral.command()
@click.argument("file", type=EXISTING_FILE)
@click.option("--fmspc", metavar="HEX", help="Show the platform with this FMSPC.")
@click.option("--ca", type=click.Choice(CAS), help="Show what is for PCK certificates of this CA.")
@click.option(
    "--at",
    callback=read_time,
    metavar="TIME",
    help="Mark what is expired at this time (ISO 8601). [default: now]",
)
@json_option
def show(file: Path, fmspc: str | None, ca: str | None, at: datetime | None, as_json: bool) -> None:
    """Show what is in a collateral FILE of any form: platforms, dates, TCB levels.

    Shows what the collateral says, not whether it is true: verifying a quote judges that.
    """
    time = at or now()
    contents = [Contents.of(one) for one in _chosen(_read(file), fmspc, ca)]
    if as_json:
        print_json(
            {"file": str(file), "at": time.isoformat(), "collateral": [one.to_json(time) for one in contents]}
        )
        return
    console = Console()
    if len(contents) == 1:
        print_contents(console, contents[0], time)
        return
    console.print(summary_table(contents, time))
    console.print("One of them in full: add --fmspc and --ca.", style="dim")


@collateral.command()
@click.argument("files", nargs=-1, required=True, type=EXISTING_FILE)
@click.option("--fmspc", metavar="HEX", help="Take only the platform with this FMSPC.")
@click.option("--ca", type=click.Choice(CAS), help="Take only what is for PCK certificates of this CA.")
@click.option("--evaluation", type=int, metavar="N", help="Take only TCB evaluation N.")
@output_options
@click.option("--dry-run", is_flag=True, help="Say what would be written.")
@json_option
def bundle(
    files: Sequence[Path],
    fmspc: str | None,
    ca: str | None,
    evaluation: int | None,
    output: str,
    form: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Merge collateral FILES of any form into one, and convert it.

    Of several collaterals for one platform and TCB evaluation that with the newest TCB info is taken.
    """
    _one_stdout(output, as_json and not dry_run)
    everything = newest_of_each(one for file in files for one in _read(file))
    everything = _chosen(everything, fmspc, ca)
    if evaluation is not None:
        numbered = zip(subjects_of(everything), everything, strict=True)
        everything = tuple(one for subject, one in numbered if subject.evaluation_number == evaluation)
    _write(everything, output, form, as_json, dry_run=dry_run)


def _platform(quote: str | None, fmspc: str | None, ca: str | None, tee: str | None) -> PlatformId:
    if (quote is None) == (fmspc is None):
        raise UsageError("one of QUOTE and --fmspc is needed", hint="see: tdx collateral fetch --help")
    if quote is None:
        return PlatformId(_fmspc(fmspc or ""), ca or PLATFORM_CA, (tee or TDX).upper())
    if ca or tee:
        raise UsageError("--ca and --tee go with --fmspc", hint="the quote says both; leave them out")
    return platform_of_quote(Quote.parse(read_evidence(quote)))


def _fmspc(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UsageError(
            f"FMSPC {text[:80]!r} is not hexadecimal", hint="give 12 hexadecimal digits"
        ) from None


def _read(file: Path) -> tuple[Collateral, ...]:
    with file.open("rb") as opened:
        return read_all(opened.read(MAX_SIZE + 1))


def _chosen(everything: tuple[Collateral, ...], fmspc: str | None, ca: str | None) -> tuple[Collateral, ...]:
    """Those for a platform; with no conditions all, also what does not say what it is for."""
    if fmspc is None and ca is None:
        return everything
    wanted = _fmspc(fmspc) if fmspc is not None else None
    subjects = subjects_of(everything)
    chosen = tuple(
        one
        for subject, one in zip(subjects, everything, strict=True)
        if wanted in (None, subject.platform.fmspc) and ca in (None, subject.platform.ca)
    )
    if not chosen:
        known = ", ".join(dict.fromkeys(str(subject.platform) for subject in subjects))
        raise UsageError("there is nothing for that platform", hint=f"it has: {known}")
    return chosen


def _write(
    entries: Sequence[Collateral], output: str, form: str, as_json: bool, *, dry_run: bool = False
) -> None:
    data = write_collateral(entries, form)
    if not dry_run:
        write_output(data, output)
    contents = [Contents.of(one) for one in entries]
    if as_json:
        print_json({"output": output, "form": form, "collateral": [_summary(one) for one in contents]})
        return
    verb = "would write" if dry_run else "wrote"
    taken = output == STDOUT and not dry_run
    for one in contents:
        click.echo(f"{verb}  {title(one)}, until {day(one.end)}", err=taken)
    click.echo(f"to  {output}  ({form} form, {len(data)} bytes)", err=taken)


def _one_stdout(output: str, as_json: bool) -> None:
    if output == STDOUT and as_json:
        raise UsageError(
            "the collateral and --json would both go to standard output", hint="name a file with -o"
        )


def _summary(contents: Contents) -> dict[str, Any]:
    document = contents.to_json(now())
    names = ("tee", "fmspc", "ca", "evaluation_number", "emulated", "state")
    return {name: document[name] for name in names} | {
        "next_update": contents.end.isoformat() if contents.end else None
    }
