"""`tdx guest`: inside a TD. The same as `tdx-guest` in images of tdxstack's, which needs Python alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tdxstack.abi.event_log import EventLog
from tdxstack.abi.quote import Quote
from tdxstack.abi.tdreport import TdReport, td_attribute_names
from tdxstack.cli import json_option, print_json
from tdxstack.cli.output import STDOUT, write_output
from tdxstack.cli.render import DIGEST_SHOWN, checks_table
from tdxstack.errors import MalformedError, UsageError
from tdxstack.evidence import answers, registers
from tdxstack.evidence.arguments import (
    HOST_KEY,
    digest_of,
    parse_digest,
    parse_nonce,
    parse_report_data,
    read_host_key,
)
from tdxstack.evidence.ccel_log import read_ccel
from tdxstack.evidence.check import check as check_guest
from tdxstack.evidence.check import exit_code
from tdxstack.evidence.collect import collect as collect_evidence
from tdxstack.evidence.kernel import Kernel
from tdxstack.evidence.quote_source import AUTO, VIAS, get_quote
from tdxstack.evidence.tdreport import get_tdreport
from tdxstack.measurement.describe import describe
from tdxstack.terminal import printable
from tdxstack.verification.quote_facts import claims_emulated
from tdxstack.verification.result import Check, Status

STATUSES = {"ok": Status.OK, "warning": Status.WARNING, "fail": Status.FAIL}


@click.group()
def guest() -> None:
    """Inside a TD: its evidence, and its measurement registers.

    Needs root. Where tdxstack is not installed, `tdx-guest` does the same with Python alone.
    """


def _parsed(parse: Callable[[str], bytes]) -> Callable[[click.Context, click.Parameter, Any], bytes | None]:
    """`parse` as a click callback, which says what option is wrong."""

    def callback(_context: click.Context, _parameter: click.Parameter, value: str | None) -> bytes | None:
        try:
            return None if value is None else parse(value)
        except UsageError as error:
            raise click.BadParameter(f"{error.message}; {error.hint}") from None

    return callback


report_data_option = click.option(
    "--report-data",
    default="",
    metavar="HEX",
    callback=_parsed(parse_report_data),
    help="Up to 64 bytes to be in it; zeros fill the rest.",
)
via_option = click.option(
    "--via",
    type=click.Choice(VIAS),
    default=AUTO,
    show_default=True,
    help="Source of the quote: the kernel's configfs-tsm, the host's quote generation service over vsock,"
    " or the first of them that is there.",
)
output_option = click.option(
    "-o", "--output", metavar="FILE", help="Write the bytes to FILE, or with - to standard output."
)


@guest.command()
@via_option
@json_option
def check(via: str, as_json: bool) -> int:
    """Check that this TD has all that its evidence needs.

    A quote is really asked for, which takes up to 30 seconds where no service answers. Exit code 1 if
    something is missing.
    """
    checks = check_guest(Kernel(), via)
    if as_json:
        print_json(answers.checks_document(checks))
        return exit_code(checks)
    rows = [Check(one.id, STATUSES[one.status], one.expected, one.found, one.detail) for one in checks]
    Console().print(checks_table(rows))
    return exit_code(checks)


@guest.command()
@report_data_option
@output_option
@json_option
def report(report_data: bytes, output: str | None, as_json: bool) -> None:
    """Get a TDREPORT, from the TDX guest device: there is no other source of it."""
    _one_form(output, as_json)
    data = get_tdreport(Kernel(), report_data)
    if output is not None:
        write_output(data, output)
        return
    if as_json:
        print_json(answers.report_document(report_data, data))
        return
    parsed = TdReport.parse(data)
    info = parsed.td_info
    _print_lines(
        {
            "report data": parsed.report_data.hex(),
            "attributes": f"{info.attributes:016x} ({', '.join(td_attribute_names(info.attributes))})",
            "MRTD": info.mrtd.hex(),
            **{f"RTMR{number}": value.hex() for number, value in enumerate(info.rtmrs)},
            "MRCONFIGID": info.mrconfigid.hex(),
            "MRSEAM": parsed.tcb_info.mrseam.hex(),
        }
    )


@guest.command()
@report_data_option
@via_option
@output_option
@json_option
def quote(report_data: bytes, via: str, output: str | None, as_json: bool) -> None:
    """Get a quote. Says where it came from, and why from there."""
    _one_form(output, as_json)
    found = get_quote(Kernel(), report_data, via)
    if as_json:
        print_json(answers.quote_document(report_data, found))
        return
    click.echo(f"over {found.via}: {printable(found.reason)}", err=True)
    if output is not None:
        write_output(found.quote, output)
        return
    try:
        parsed = Quote.parse(found.quote)
        version, emulated = str(parsed.header.version), claims_emulated(parsed)
    except MalformedError as error:
        version, emulated = error.message, False
    if emulated:
        click.echo("emulated: this TD is not protected", err=True)
    _print_lines(
        {
            "size": f"{len(found.quote)} bytes",
            "version": version,
            "provider": found.provider,
            "report data": report_data.hex(),
        }
    )
    click.echo("keep it with -o FILE, read it with tdx quote show, judge it with tdx quote verify", err=True)


@guest.command()
@output_option
@json_option
def eventlog(output: str | None, as_json: bool) -> None:
    """Show the CCEL event log: what firmware and boot loader have measured."""
    _one_form(output, as_json)
    table, data = read_ccel(Kernel())
    if output is not None:
        write_output(data, output)
        return
    if as_json:
        print_json(answers.event_log_document(table, data))
        return
    shown = Table("REGISTER", "TYPE", "DIGEST", "MEANING", box=None)
    for event in EventLog.parse(data).events:
        digest = (event.digest() or b"").hex()
        cells = (event.mr_name.lower(), event.type_name, f"{digest[:DIGEST_SHOWN]}…", describe(event))
        shown.add_row(*(Text(printable(cell)) for cell in cells))
    Console().print(shown)


@guest.command()
@click.option(
    "--rtmr", type=click.IntRange(0, registers.RTMR_COUNT - 1), required=True, help="Number of the register."
)
@click.option("--digest", metavar="HEX", callback=_parsed(parse_digest), help="SHA-384 digest, 48 bytes.")
@click.option("--file", type=click.Path(path_type=Path), help="A file whose SHA-384 digest is taken.")
@click.option("--dry-run", is_flag=True, help="Say what the register would be, and do not extend it.")
@json_option
def extend(rtmr: int, digest: bytes | None, file: Path | None, dry_run: bool, as_json: bool) -> None:
    """Extend a measurement register with a digest. Nothing but a new start of the TD undoes that.

    The register becomes SHA-384 of what it was and the digest. RTMR2 and RTMR3 are for software; no event
    is written, so keep a record of your own for whoever verifies. Kernel 6.16 or newer.
    """
    if file is not None and digest is None:
        digest = digest_of(file)
    elif digest is None or file is not None:
        raise UsageError("one of --digest and --file is needed", hint="see: tdx guest extend --help")
    act = registers.foretell if dry_run else registers.extend
    done = act(Kernel(), rtmr, digest)
    if as_json:
        print_json(answers.extended_document(done))
        return
    _print_lines(
        {
            "register": done.name,
            "digest": done.digest.hex(),
            "was": done.before.hex(),
            "would be" if dry_run else "is": done.after.hex(),
        }
    )


@guest.command()
@click.option(
    "--nonce", metavar="HEX", required=True, callback=_parsed(parse_nonce), help="The verifier's 32 bytes."
)
@click.option(
    "--host-key", metavar="FILE", default=HOST_KEY, show_default=True, help="SSH host public key to bind."
)
@click.option("--no-host-key", is_flag=True, help="Bind no SSH host key.")
@via_option
@click.option("-o", "--output", metavar="FILE", default=STDOUT, help="File to write. [default: stdout]")
def collect(nonce: bytes, host_key: str, no_host_key: bool, via: str, output: str) -> None:
    """Collect all evidence as one JSON document, for `tdx evidence verify`."""
    kernel = Kernel()
    key = read_host_key(kernel, None if no_host_key else host_key)
    document = collect_evidence(kernel, nonce, key, via).to_json()
    write_output(document.encode("ascii") + b"\n", output)


def _one_form(output: str | None, as_json: bool) -> None:
    if output is not None and as_json:
        raise UsageError("--json and --output contradict each other", hint="the document has the bytes too")


def _print_lines(facts: dict[str, str]) -> None:
    """Name and value a line, never broken: people copy digests."""
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        click.echo(f"{name:<{width}}  {printable(value)}")
