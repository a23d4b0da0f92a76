"""`tdx eventlog`: logs of measurements."""

from __future__ import annotations

import click
from rich.console import Console

from tdxstack.abi.quote import Quote
from tdxstack.abi.td_body import TdBody10
from tdxstack.cli import json_option, print_json
from tdxstack.cli.evidence_input import read_evidence
from tdxstack.errors import UsageError
from tdxstack.measurement.log_profile import Origin
from tdxstack.measurement.log_replay import Comparison, Replay, compare_rtmrs, replay_logs
from tdxstack.measurement.logs import Log, LogEntry, LogKind, read_log
from tdxstack.measurement.replay import Rtmrs
from tdxstack.terminal import printable
from tdxstack.verification.quote_facts import claims_emulated
from tdxstack.verification.report_facts import is_emulated, read_report

DIGEST_SHOWN = 16

STATUS_MARKS = {"ok": "ok", "fail": "FAIL", "unknown": "", "not_applicable": "-"}

format_option = click.option(
    "--format",
    "kind",
    type=click.Choice([kind.value for kind in LogKind]),
    help="Kind of the log, where its content does not tell.",
)


@click.group()
def eventlog() -> None:
    """Show and replay event logs: CCEL, TPM, IMA, attestation agent, canonical."""


@eventlog.command()
@click.argument("source", metavar="LOG")
@format_option
@json_option
def show(source: str, kind: str | None, as_json: bool) -> None:
    """Show LOG in words: a file or - for standard input, in binary, hex or base64.

    A register proves the digests of a log. The column DATA says ok where the digest is that of the logged
    data, so that the words are proven with it, and nothing where the data only names what was hashed.

    A TD's boot log ends with whose firmware wrote it: the releases of edk2 that measure like this, td-shim,
    or what is nearest. This is read from the events, and proves nothing about the firmware; MRTD does.
    """
    log = read_log(read_evidence(source), LogKind(kind) if kind else None)
    firmware = log.firmware
    if as_json:
        events = [_document(number, entry) for number, entry in enumerate(log.entries())]
        for event, origin in zip(events, firmware.origins if firmware else (), strict=bool(firmware)):
            event["origin"] = origin.value
        head = {"format": log.kind.value, "of_td": log.of_td, "count": log.count}
        print_json(head | {"firmware": firmware and firmware.to_json(), "events": events})
        return
    click.echo(_line("#", "REGISTER", "TYPE", "DIGEST", "DATA", "MEANING"))
    for number, entry in enumerate(log.entries()):
        digest = entry.digests[-1][1].hex()[:DIGEST_SHOWN] + "…" if entry.digests else "-"
        click.echo(
            _line(
                number, entry.register, entry.type, digest, STATUS_MARKS[entry.digest_status], entry.meaning
            )
        )
    click.echo(f"{log.count} events")
    if firmware:
        click.echo(f"firmware: {printable(firmware.summary)}")
        unknown = [str(number) for number, origin in enumerate(firmware.origins) if origin is Origin.UNKNOWN]
        if unknown:
            click.echo(f"of nobody that tdx knows: events {', '.join(unknown)}")


@eventlog.command()
@click.argument("sources", metavar="LOG...", nargs=-1, required=True)
@click.option("--quote", metavar="FILE", help="Quote with the RTMRs to compare with.")
@click.option("--report", metavar="FILE", help="TDREPORT (or HCL report) with the RTMRs to compare with.")
@format_option
@json_option
def replay(
    sources: tuple[str, ...], quote: str | None, report: str | None, kind: str | None, as_json: bool
) -> int:
    """Compute the registers that LOG adds up to, and compare them with a quote or TDREPORT.

    More logs are extended into the same RTMRs, in order: a TD's boot log first, then the IMA log of a kernel
    that extends RTMRs, or an attestation agent's. Each is a file or - for standard input, in binary, hex or
    base64.

    Exit code 1 if a register differs, or a logged digest is not that of the data logged with it. An RTMR3
    that no event extends may differ: programs extend it without an event.
    """
    if quote and report:
        raise UsageError("both --quote and --report are given", hint="give one of them")
    logs = [read_log(read_evidence(source), LogKind(kind) if kind else None) for source in sources]
    done = replay_logs(logs)
    compared, emulated = None, None
    if quote or report:
        measured, emulated = _quoted(quote) if quote else _reported(report or "")
        compared = compare_rtmrs(done, measured)
    if as_json:
        document = _replay_document(logs, done, compared)
        print_json(document | ({"emulated": emulated} if compared else {}))
    else:
        _print_replay(done, compared)
        if emulated:
            Console().print("[bold yellow]emulated: this TD is not protected[/]", highlight=False)
    return 1 if done.wrong_digests or (compared and not compared.good) else 0


def _quoted(source: str) -> tuple[Rtmrs, bool]:
    """The RTMRs of a quote, and whether it says of itself that it is emulated."""
    parsed = Quote.parse(read_evidence(source))
    if not isinstance(parsed.body, TdBody10):
        raise UsageError(f"{source} is the quote of an enclave, which has no RTMRs", hint="give a TD's quote")
    return parsed.body.rtmrs, claims_emulated(parsed)


def _reported(source: str) -> tuple[Rtmrs, bool | None]:
    """The RTMRs of a TDREPORT, and whether it is known to be emulated."""
    report, _ = read_report(read_evidence(source))
    return report.td_info.rtmrs, is_emulated(report)


def _document(number: int, entry: LogEntry) -> dict[str, object]:
    return {
        "number": number,
        "register": entry.register,
        "type": entry.type,
        "digests": {name: digest.hex() for name, digest in entry.digests},
        "digest_status": entry.digest_status,
        "meaning": entry.meaning,
    }


def _line(number: object, register: str, kind: str, digest: str, status: str, meaning: str) -> str:
    """A line of the list; not wrapped, as a log is searched more than it is read."""
    return f"{number:>4}  {register:8}  {printable(kind):34}  {digest:17}  {status:4}  {printable(meaning)}"


def _replay_document(logs: list[Log], done: Replay, compared: Comparison | None) -> dict[str, object]:
    document: dict[str, object] = {
        "formats": [log.kind.value for log in logs],
        "events": done.events,
        "registers": _registers(done.rtmrs) if done.rtmrs else None,
        "banks": done.banks
        and {
            bank: {name: value.hex() for name, value in registers.items()}
            for bank, registers in done.banks.items()
        },
        "wrong_digests": list(done.wrong_digests),
        "notes": _notes(done, compared),
    }
    if compared:
        document["matches"] = {f"rtmr{index}": match for index, match in enumerate(compared.matches)}
    return document


def _notes(done: Replay, compared: Comparison | None) -> list[str]:
    missing = [f"the bank of {name} is not computed: only SHA-1 and SHA-2 are" for name in done.not_computed]
    return missing + list(compared.notes if compared else ())


def _registers(rtmrs: Rtmrs) -> dict[str, str]:
    return {f"rtmr{index}": value.hex() for index, value in enumerate(rtmrs)}


def _print_replay(done: Replay, compared: Comparison | None) -> None:
    console = Console(soft_wrap=True)
    if done.rtmrs:
        for index, (name, value) in enumerate(_registers(done.rtmrs).items()):
            match = ""
            if compared:
                match = " [green]match[/]" if compared.matches[index] else " [bold red]differs[/]"
            console.print(f"{name.upper()}  {value}{match}", highlight=False)
    for bank, registers in (done.banks or {}).items():
        for name, register in registers.items():
            console.print(f"{bank:6}  {name:5}  {register.hex()}", highlight=False)
    click.echo(f"{done.events} events")
    if done.wrong_digests:
        numbers = ", ".join(map(str, done.wrong_digests))
        console.print(
            f"[bold red]digest is not that of the logged data:[/] events {numbers}", highlight=False
        )
    for note in _notes(done, compared):
        console.print(f"[yellow]note:[/] {note}", highlight=False)
