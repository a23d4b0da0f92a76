"""`tdx evidence`: what a TD has presented."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tdxstack.abi.event_log import EventLog
from tdxstack.abi.quote import Quote
from tdxstack.cli import json_option, print_json
from tdxstack.cli.edge import directories, now
from tdxstack.cli.render import checks_table, print_verdict, registers_table
from tdxstack.collateral.bundle import Collateral
from tdxstack.errors import UsageError
from tdxstack.evidence.binding import host_key_blob
from tdxstack.evidence.document import Evidence
from tdxstack.machine.store import MachineStore
from tdxstack.measurement.describe import describe
from tdxstack.measurement.mrtd import mrtd
from tdxstack.terminal import printable
from tdxstack.verification.boot import Expectation, verify_boot
from tdxstack.verification.certificates import INTEL_SGX_ROOT_CA, TrustAnchor
from tdxstack.verification.inputs import ParsedCollateral
from tdxstack.verification.policy import Policy
from tdxstack.verification.result import ACCEPTED

EXISTING_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


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
@click.option("--nonce", required=True, metavar="HEX", help="The 32 bytes that you sent to the TD.")
@click.option(
    "--firmware", type=EXISTING_FILE, required=True, help="TDVF file that the TD should have booted."
)
@click.option(
    "--collateral", type=EXISTING_FILE, required=True, help="Bundle with TCB info, QE identity and CRLs."
)
@click.option(
    "--host-key",
    type=EXISTING_FILE,
    help="SSH host public key (a .pub file) that the channel showed.",
)
@click.option("--trust-anchor", type=EXISTING_FILE, help="Root certificate to trust. [default: Intel's]")
@click.option(
    "--allow",
    type=click.Choice(["emulated"]),
    multiple=True,
    help="Accept what proves nothing about hardware.",
)
@click.option(
    "--at", type=click.DateTime(["%Y-%m-%dT%H:%M:%S%z"]), help="Verify as of this time. [default: now]"
)
@json_option
def verify(
    file: Path,
    nonce: str,
    firmware: Path,
    collateral: Path,
    host_key: Path | None,
    trust_anchor: Path | None,
    allow: tuple[str, ...],
    at: datetime | None,
    as_json: bool,
) -> int:
    """Verify the evidence in FILE, without network. Exit code 0 if it is accepted, 1 if it is rejected."""
    anchor = TrustAnchor.from_certificate(trust_anchor.read_bytes()) if trust_anchor else INTEL_SGX_ROOT_CA
    result = verify_boot(
        Evidence.from_json(file.read_bytes()),
        Expectation(
            _nonce(nonce),
            host_key_blob(host_key.read_bytes()) if host_key else None,
            mrtd(firmware.read_bytes()).single_pass,
        ),
        ParsedCollateral.parse(Collateral.from_json(collateral.read_bytes())),
        time=at or now(),
        anchors=(anchor,),
        policy=Policy(allow_emulated="emulated" in allow),
    )
    if as_json:
        print_json(result.to_json())
    else:
        console = Console()
        console.print(checks_table(result.checks))
        console.print()
        console.print(registers_table(result.registers))
        console.print()
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


def _nonce(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UsageError(
            f"nonce {text[:80]!r} is not hexadecimal", hint="give 64 hexadecimal digits"
        ) from None
