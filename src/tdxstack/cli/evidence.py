"""`tdx evidence`: what a TD has presented."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tdxstack.abi.event_log import EventLog
from tdxstack.abi.quote import Quote
from tdxstack.cli import EXISTING_FILE, json_option, print_json
from tdxstack.cli.edge import directories
from tdxstack.cli.render import (
    checks_table,
    print_forecast,
    print_rejection,
    print_verdict,
    registers_table,
)
from tdxstack.cli.token_options import TokenOptions, token_options
from tdxstack.cli.verification_options import (
    VerificationOptions,
    bound_key_of,
    hex_of,
    read_bundle,
    verification_options,
)
from tdxstack.errors import RejectedError, UsageError
from tdxstack.evidence.binding import NONCE_SIZE
from tdxstack.evidence.document import Evidence
from tdxstack.evidence.registers import REGISTER_SIZE
from tdxstack.machine.store import MachineStore
from tdxstack.measurement.describe import describe
from tdxstack.measurement.mrtd import mrtd
from tdxstack.measurement.reference import Reference
from tdxstack.terminal import printable
from tdxstack.verification.boot import Expectation, verify_boot
from tdxstack.verification.forecast import Forecast
from tdxstack.verification.inputs import ParsedCollateral, load
from tdxstack.verification.quote import verify_quote
from tdxstack.verification.reference_checks import check_reference
from tdxstack.verification.result import ACCEPTED


@click.group()
def evidence() -> None:
    """Show and verify what a TD has presented."""


@evidence.command()
@click.argument("source", default="td")
@json_option
def show(source: str, as_json: bool) -> None:
    """Show evidence: that of a machine, or of a FILE that `tdx-guest collect` wrote.

    Shows what the evidence says, not whether it is true: `tdx evidence verify` judges it.
    """
    path = _find(source)
    document = Evidence.from_json(path.read_bytes())
    quote = Quote.parse(document.quote)
    events = EventLog.parse(document.ccel_data).events if document.ccel_data else ()
    log = [
        {
            "register": event.mr_name.lower(),
            "type": event.type_name,
            "digest": (event.digest() or b"").hex(),
            "meaning": describe(event),
        }
        for event in events
    ]
    facts = {
        "file": str(path),
        "nonce": document.nonce.hex(),
        "kernel": document.kernel,
        "os": document.os,
        "provider": document.provider,
        "quote": f"version {quote.header.version}, {len(document.quote)} bytes",
        "report_data": document.report_data.hex(),
    }
    if as_json:
        registers = {name: value.hex() for name, value in (document.measurements or {}).items()}
        print_json(facts | {"measurements": registers, "events": log})
        return
    console = Console()
    table = Table(box=None, show_header=False)
    for name, value in facts.items():
        table.add_row(name, Text(printable(value)))
    console.print(table)
    table = Table("REGISTER", "TYPE", "DIGEST", "MEANING", box=None)
    for row in log:
        cells = (row["register"], row["type"], row["digest"][:16] + "…", row["meaning"])
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console.print(table)


@evidence.command()
@click.argument("file", type=EXISTING_FILE)
@click.option(
    "--nonce",
    callback=hex_of(NONCE_SIZE),
    required=True,
    metavar="HEX",
    help="The 32 bytes that you sent to the TD.",
)
@click.option(
    "--firmware", type=EXISTING_FILE, required=True, help="TDVF file that the TD should have booted."
)
@click.option(
    "--bound-key",
    "--host-key",
    type=EXISTING_FILE,
    help="SSH host public key (a .pub file) that the channel showed.",
)
@click.option(
    "--reference", type=EXISTING_FILE, help="Reference values that the registers must have (`tdx predict`)."
)
@click.option(
    "--rtmr3",
    callback=hex_of(REGISTER_SIZE),
    metavar="HEX",
    help="What software in the TD has extended RTMR3 to. [default: nothing, 48 zero bytes]",
)
@verification_options
@token_options
@json_option
def verify(
    file: Path,
    nonce: bytes,
    firmware: Path,
    bound_key: Path | None,
    reference: Path | None,
    rtmr3: bytes | None,
    options: VerificationOptions,
    token: TokenOptions | None,
    as_json: bool,
) -> int:
    """Verify the evidence in FILE, a document of `tdx up` or `tdx-guest collect`.

    Exit code 0 if it is accepted, 1 if it is rejected.
    """
    document, time = Evidence.from_json(file.read_bytes()), options.time
    quote = load(lambda: Quote.parse(document.quote)).value
    result = verify_boot(
        document,
        Expectation(
            nonce,
            bound_key_of(bound_key),
            mrtd(firmware.read_bytes()).single_pass,
            rtmr3=bytes(REGISTER_SIZE) if rtmr3 is None else rtmr3,
        ),
        ParsedCollateral.parse(options.collateral_for(quote)),
        time=time,
        anchors=options.anchors,
        policy=options.policy,
    )
    later = None
    if options.forecast and result.quote:
        then = read_bundle(options.forecast, quote)
        later = Forecast(
            result.quote,
            verify_quote(result.quote.quote, then, time=time, anchors=options.anchors, policy=options.policy),
        )
    if reference:
        wanted = Reference.from_json(reference.read_bytes())
        body = quote.body if quote else None
        result = replace(result, checks=(*result.checks, *check_reference(wanted, body, document.ccel_data)))
    if token:
        if result.quote is None:
            raise RejectedError("there is nothing to sign: the quote cannot be read", hint="see --json")
        token.write(replace(result.quote, checks=result.checks), time, options.policy_text, nonce)
    if as_json:
        print_json(result.to_json() | ({"forecast": later.to_json()} if later else {}))
    elif not (token and token.on_stdout):
        console = Console()
        print_rejection(console, result.checks)
        console.print(checks_table(result.checks, brief=True))
        console.print()
        console.print(registers_table(result.registers))
        console.print()
        if later:
            print_forecast(console, later)
        print_verdict(console, result.verdict, emulated=result.emulated)
    return 0 if result.verdict == ACCEPTED else 1


def _find(source: str) -> Path:
    """The evidence file of a machine, or the file itself."""
    store = MachineStore(directories())
    if source in store.names():
        return store.files(source).evidence
    if Path(source).is_file():
        return Path(source)
    known = ", ".join(store.names()) or "none"
    raise UsageError(f"{source!r} is neither a machine nor a file", hint=f"machines here: {known}")
