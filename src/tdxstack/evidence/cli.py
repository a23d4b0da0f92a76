"""The command line inside the TD: `python3 -m tdxstack.evidence VERB`.

stdout carries one JSON document (or raw bytes with --raw); errors go to stderr in two lines.
Exit codes: 0 done, 1 the thing examined is not good, 2 usage, 3 this machine lacks something,
130 interrupted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from io import BufferedRWPair
from pathlib import Path
from typing import IO, Any, NoReturn

from tdxstack.errors import TdxError, UsageError
from tdxstack.evidence import answers
from tdxstack.evidence.answering import answer_all
from tdxstack.evidence.arguments import (
    HOST_KEY,
    VIA_HELP,
    digest_of,
    parse_digest,
    parse_nonce,
    parse_report_data,
    read_host_key,
)
from tdxstack.evidence.ccel_log import read_ccel
from tdxstack.evidence.check import check, exit_code
from tdxstack.evidence.collect import collect
from tdxstack.evidence.kernel import Kernel
from tdxstack.evidence.quote_source import AUTO, VIAS, get_quote
from tdxstack.evidence.registers import RTMR_COUNT, extend, foretell
from tdxstack.evidence.tdreport import REPORT_DATA_SIZE, get_tdreport

INTERRUPTED = 130

Output = tuple[int, bytes]
"""Exit code and what goes to stdout."""


def main(argv: Sequence[str], kernel: Kernel, stdout: IO[bytes], stderr: IO[str]) -> int:
    """Run one command; return its exit code."""
    try:
        arguments = _parser().parse_args(argv)
        verb: Callable[[argparse.Namespace, Kernel], Output] = arguments.verb
        code, output = verb(arguments, kernel)
        stdout.write(output)
        stdout.flush()
    except TdxError as error:
        stderr.write(f"error: {error.message}\n")
        if error.hint:
            stderr.write(f"hint: {error.hint}\n")
        return error.exit_code
    except KeyboardInterrupt:
        stderr.write("interrupted\n")
        return INTERRUPTED
    return code


class _Parser(argparse.ArgumentParser):
    """Reports mistakes in the form that all of tdxstack uses."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see '{self.prog} --help'")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="tdx-guest", description="Evidence of the TD that this runs in.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    common = _Parser(add_help=False)
    common.add_argument(
        "--json", action="store_true", help="JSON on stdout (always so, unless --raw is given)"
    )
    bound = _Parser(add_help=False)
    bound.add_argument(
        "--report-data",
        type=_argument(parse_report_data),
        default=bytes(REPORT_DATA_SIZE),
        metavar="HEX",
        help="up to 64 bytes; zeros fill the rest",
    )
    sourced = _Parser(add_help=False)
    sourced.add_argument("--via", choices=VIAS, default=AUTO, help=VIA_HELP)
    raw = _Parser(add_help=False)
    raw.add_argument("--raw", action="store_true", help="the bytes themselves on stdout")

    def add(name: str, run: Callable[[argparse.Namespace, Kernel], Output], text: str, *parents: Any) -> Any:
        verb = verbs.add_parser(name, help=text, description=text, parents=[common, *parents])
        verb.set_defaults(verb=run)
        return verb

    verb = add(
        "collect", _collect, "all evidence as one document, bound to a nonce and the SSH host key", sourced
    )
    verb.add_argument("--nonce", type=_argument(parse_nonce), required=True, metavar="HEX", help="32 bytes")
    verb.add_argument("--host-key", default=HOST_KEY, metavar="FILE", help=f"public key, {HOST_KEY}")
    verb.add_argument("--no-host-key", action="store_true", help="bind no SSH host key")
    verb = add("answer", _answer, "evidence for each nonce that is read as a line")
    verb.add_argument("--host-key", default=HOST_KEY, metavar="FILE", help=f"public key, {HOST_KEY}")
    verb.add_argument("--port", type=Path, metavar="DEVICE", help="virtio-serial port, not stdin and stdout")
    add("report", _report, "a TDREPORT", bound, raw)
    add("quote", _quote, "a quote", bound, sourced, raw)
    add("eventlog", _eventlog, "the CCEL event log", raw)
    verb = add("extend", _extend, "extend a register (kernel 6.16 or newer)")
    verb.add_argument("--dry-run", action="store_true", help="say what the register would be")
    verb.add_argument("--rtmr", type=int, required=True, choices=range(RTMR_COUNT))
    what = verb.add_mutually_exclusive_group(required=True)
    what.add_argument("--digest", type=_argument(parse_digest), metavar="HEX", help="SHA-384, 48 bytes")
    what.add_argument("--file", type=Path, metavar="FILE", help="its SHA-384 is taken")
    add("check", _check, "whether all that evidence needs is there", sourced)
    return parser


def _collect(arguments: argparse.Namespace, kernel: Kernel) -> Output:
    key = None if arguments.no_host_key else arguments.host_key
    evidence = collect(kernel, arguments.nonce, read_host_key(kernel, key), arguments.via)
    return 0, evidence.to_json().encode("ascii") + b"\n"


def _answer(arguments: argparse.Namespace, kernel: Kernel) -> Output:
    if arguments.port is None:
        with open(0, "rb", closefd=False) as requests, open(1, "wb", closefd=False) as answers:
            answer_all(kernel, requests, answers, arguments.host_key)
    else:
        # The kernel lets a port be opened once at a time.
        with arguments.port.open("r+b", buffering=0) as port:
            both = BufferedRWPair(port, port)
            answer_all(kernel, both, both, arguments.host_key)
    return 0, b""


def _report(arguments: argparse.Namespace, kernel: Kernel) -> Output:
    report = get_tdreport(kernel, arguments.report_data)
    return 0, report if arguments.raw else _json(answers.report_document(arguments.report_data, report))


def _quote(arguments: argparse.Namespace, kernel: Kernel) -> Output:
    quote = get_quote(kernel, arguments.report_data, arguments.via)
    return 0, quote.quote if arguments.raw else _json(answers.quote_document(arguments.report_data, quote))


def _eventlog(arguments: argparse.Namespace, kernel: Kernel) -> Output:
    table, data = read_ccel(kernel)
    return 0, data if arguments.raw else _json(answers.event_log_document(table, data))


def _extend(arguments: argparse.Namespace, kernel: Kernel) -> Output:
    digest = arguments.digest if arguments.file is None else digest_of(arguments.file)
    done = (foretell if arguments.dry_run else extend)(kernel, arguments.rtmr, digest)
    return 0, _json(answers.extended_document(done))


def _check(arguments: argparse.Namespace, kernel: Kernel) -> Output:
    checks = check(kernel, arguments.via)
    return exit_code(checks), _json(answers.checks_document(checks))


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=2).encode("ascii") + b"\n"


def _argument(parse: Callable[[str], bytes]) -> Callable[[str], bytes]:
    """`parse` as argparse wants it, which says what argument is wrong."""

    def convert(text: str) -> bytes:
        try:
            return parse(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(error.message) from None

    return convert
