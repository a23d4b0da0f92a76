"""`tdx quote`: what a quote says, and whether it is true."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import click
from rich.console import Console

from tdxstack.abi.quote import Quote
from tdxstack.cli import EXISTING_FILE, json_option, print_json
from tdxstack.cli.edge import now
from tdxstack.cli.evidence_input import read_evidence
from tdxstack.cli.facts import print_facts
from tdxstack.cli.quote_directory import verify_directory
from tdxstack.cli.render import checks_table, print_forecast, print_rejection, print_tcb, print_verdict
from tdxstack.cli.token_options import TokenOptions, token_options
from tdxstack.cli.verification_options import (
    VerificationOptions,
    bound_key_of,
    hex_of,
    read_bundle,
    read_time,
    verification_options,
)
from tdxstack.errors import UsageError
from tdxstack.evidence.binding import NONCE_SIZE
from tdxstack.measurement.reference import Reference
from tdxstack.verification.forecast import Forecast
from tdxstack.verification.log_checks import check_event_log
from tdxstack.verification.policy import AnyPolicy, binding, expecting
from tdxstack.verification.quote import QuoteResult, Verifier
from tdxstack.verification.quote_facts import claims_emulated, quote_facts, quoted_pck
from tdxstack.verification.reference_checks import check_reference
from tdxstack.verification.result import ACCEPTED
from tdxstack.verification.token import MAX_SIZE as MAX_TOKEN
from tdxstack.verification.token import is_emulated, tier_of, verify_token
from tdxstack.verification.trust_vector import Tier

REPORT_DATA_SIZE = 64


@click.group()
def quote() -> None:
    """Show and verify quotes of TDs and SGX enclaves."""


@quote.command()
@click.argument("quote_file", metavar="QUOTE")
@json_option
def show(quote_file: str, as_json: bool) -> None:
    """Show what QUOTE says: a file or - for standard input, in binary, hex or base64.

    Nothing is verified: anybody can write such a quote. `tdx quote verify` judges it.
    """
    parsed = Quote.parse(read_evidence(quote_file))
    facts, pck, emulated = quote_facts(parsed), quoted_pck(parsed), claims_emulated(parsed)
    if as_json:
        print_json({"verified": False, "emulated": emulated, "quote": facts, "pck": pck})
        return
    console = Console()
    warning = "not verified: this is what the quote says, and anybody can write that"
    console.print(warning, style="yellow", highlight=False)
    if emulated:
        console.print("[bold yellow]emulated: this TD is not protected[/]", highlight=False)
    certification = facts["signature"].pop("certification")
    print_facts(console, "header", facts["header"] | {"trailing bytes": facts["trailing_bytes"]})
    print_facts(console, "body", facts["body"])
    print_facts(console, "signature", facts["signature"])
    print_facts(console, "certification data", certification)
    if pck:
        print_facts(console, "PCK certificate", pck)


@quote.command()
@click.argument("quote_file", metavar="QUOTE")
@verification_options
@click.option("--event-log", metavar="FILE", help="CCEL event log that must give RTMR0 to RTMR2.")
@click.option(
    "--reference", type=EXISTING_FILE, help="Reference values that the registers must have (`tdx predict`)."
)
@click.option(
    "--nonce",
    callback=hex_of(NONCE_SIZE),
    metavar="HEX",
    help="The 32 bytes that the quote must bind, as `tdx up` has it done.",
)
@click.option(
    "--bound-key",
    type=EXISTING_FILE,
    help="SSH public key (a .pub file) that the quote must bind with the nonce.",
)
@click.option(
    "--report-data",
    callback=hex_of(REPORT_DATA_SIZE),
    metavar="HEX",
    help="The 64 bytes of REPORTDATA.",
)
@click.option(
    "--pck-chain", type=EXISTING_FILE, help="PCK certificate chain (PEM), for quotes that hold none."
)
@token_options
@click.option(
    "--jobs",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Verify a directory with N processes. [default: one for each core]",
)
@json_option
def verify(
    quote_file: str,
    options: VerificationOptions,
    event_log: str | None,
    reference: Path | None,
    nonce: bytes | None,
    bound_key: Path | None,
    report_data: bytes | None,
    pck_chain: Path | None,
    token: TokenOptions | None,
    jobs: int | None,
    as_json: bool,
) -> int:
    """Verify QUOTE: a file or - for standard input, in binary, hex or base64.

    Exit code 0 if it is accepted, 1 if it is rejected.

    Of a directory, every file below it is verified, with one line of JSON for each; 1 if any is not accepted.
    """
    policy = _policy(options, nonce, bound_key, report_data)
    if Path(quote_file).is_dir():
        of_one = {
            "event-log": event_log,
            "reference": reference,
            "pck-chain": pck_chain,
            "forecast": options.forecast,
            "token": token,
        }
        for option in (name for name, value in of_one.items() if value):
            raise UsageError(f"--{option} is about one quote", hint="verify the quotes one by one")
        return verify_directory(Path(quote_file), options, policy, jobs)
    if jobs:
        raise UsageError("--jobs is for a directory of quotes", hint=f"{quote_file} is none")
    parsed = Quote.parse(read_evidence(quote_file))
    chain = pck_chain.read_bytes() if pck_chain else None
    verifier, time = Verifier(anchors=options.anchors, policy=policy), options.time
    collateral = options.collateral_for(parsed, chain)
    result = verifier.verify(parsed, collateral, time=time, pck_chain=chain)
    later = None
    if options.forecast:
        then = read_bundle(options.forecast, parsed, chain)
        later = Forecast(result, verifier.verify(parsed, then, time=time, pck_chain=chain))
    log = read_evidence(event_log) if event_log else None
    if log is not None:
        result = replace(result, checks=(*result.checks, *check_event_log(log, parsed.body)))
    if reference:
        wanted = Reference.from_json(reference.read_bytes())
        result = replace(result, checks=(*result.checks, *check_reference(wanted, parsed.body, log)))
    if token:
        token.write(result, time, options.policy_text, nonce)
    if as_json:
        print_json(result.to_json() | ({"forecast": later.to_json()} if later else {}))
    elif not (token and token.on_stdout):
        _print_result(result, later)
    return 0 if result.verdict == ACCEPTED else 1


@quote.command()
@click.argument("file", metavar="TOKEN", type=click.File("rb"))
@click.option(
    "--key", type=EXISTING_FILE, required=True, help="Public key (PEM) of the verifier that signed the token."
)
@click.option("--at", callback=read_time, metavar="TIME", help="Verify as of this time. [default: now]")
@json_option
def token(file: BinaryIO, key: Path, at: datetime | None, as_json: bool) -> int:
    """Verify TOKEN, which `tdx quote verify --token` wrote: a file or - for standard input.

    Exit code 0 if the token is genuine and its status is affirming or warning, 1 otherwise.
    """
    claims = verify_token(file.read(MAX_TOKEN + 1), key.read_bytes(), time=at or now())
    tier = tier_of(claims)
    if as_json:
        print_json(claims)
    else:
        console = Console()
        print_facts(console, "claims", claims)
        mark = "  [bold yellow]emulated: this TD is not protected[/]" if is_emulated(claims) else ""
        console.print(f"\nstatus: {tier.value}{mark}", highlight=False)
    return 0 if tier in (Tier.AFFIRMING, Tier.WARNING) else 1


def _policy(
    options: VerificationOptions, nonce: bytes | None, bound_key: Path | None, report_data: bytes | None
) -> AnyPolicy:
    policy = options.policy
    if nonce is not None:
        policy = binding(policy, nonce, bound_key_of(bound_key) or b"")
    elif bound_key:
        raise UsageError("a key is bound together with a nonce", hint="give --nonce as well")
    return expecting(policy, "report_data", report_data) if report_data is not None else policy


def _print_result(result: QuoteResult, later: Forecast | None) -> None:
    console = Console()
    print_rejection(console, result.checks)
    console.print(checks_table(result.checks, brief=True))
    console.print()
    print_tcb(console, "TCB status:", result)
    if later:
        print_forecast(console, later)
    print_verdict(console, result.verdict, emulated=result.emulated)
