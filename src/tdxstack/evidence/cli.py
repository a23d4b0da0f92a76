"""The command line inside the TD: `python3 -m tdxstack.evidence VERB`.

stdout carries one JSON document (or raw bytes with --raw); errors go to stderr in two lines.
Exit codes: 0 done, 1 the thing examined is not good, 2 usage, 3 this machine lacks something,
130 interrupted.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from tdxstack.abi.event_log import EventLog
from tdxstack.errors import TdxError, UnavailableError, UsageError
from tdxstack.evidence.binding import NONCE_SIZE, host_key_blob
from tdxstack.evidence.ccel_log import read_ccel
from tdxstack.evidence.check import check
from tdxstack.evidence.collect import collect
from tdxstack.evidence.kernel import Kernel
from tdxstack.evidence.registers import REGISTER_SIZE, RTMR_COUNT, extend
from tdxstack.evidence.tdreport import REPORT_DATA_SIZE, get_tdreport
from tdxstack.evidence.tsm_quote import get_quote

HOST_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"
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
    bound.add_argument("--report-data", type=_report_data, default=bytes(REPORT_DATA_SIZE), metavar="HEX")
    raw = _Parser(add_help=False)
    raw.add_argument("--raw", action="store_true", help="the bytes themselves on stdout")

    def add(name: str, run: Callable[[argparse.Namespace, Kernel], Output], text: str, *parents: Any) -> Any:
        verb = verbs.add_parser(name, help=text, description=text, parents=[common, *parents])
        verb.set_defaults(verb=run)
        return verb

    verb = add("collect", _collect, "all evidence as one document, bound to a nonce and the SSH host key")
    verb.add_argument("--nonce", type=_hex(NONCE_SIZE), required=True, metavar="HEX", help="32 bytes")
    verb.add_argument("--host-key", default=HOST_KEY, metavar="FILE", help=f"public key, {HOST_KEY}")
    verb.add_argument("--no-host-key", action="store_true", help="bind no SSH host key")
    add("report", _report, "a TDREPORT", bound, raw)
    add("quote", _quote, "a quote", bound, raw)
    add("eventlog", _eventlog, "the CCEL event log", raw)
    verb = add("extend", _extend, "extend a register (kernel 6.16 or newer)")
    verb.add_argument("--rtmr", type=int, required=True, choices=range(RTMR_COUNT))
    what = verb.add_mutually_exclusive_group(required=True)
    what.add_argument("--digest", type=_hex(REGISTER_SIZE), metavar="HEX", help="SHA-384, 48 bytes")
    what.add_argument("--file", type=Path, metavar="FILE", help="its SHA-384 is taken")
    add("check", _check, "whether all that evidence needs is there")
    return parser


def _collect(arguments: argparse.Namespace, kernel: Kernel) -> Output:
    key = b"" if arguments.no_host_key else host_key_blob(_read_key(kernel, arguments.host_key))
    return 0, collect(kernel, arguments.nonce, key).to_json().encode("ascii") + b"\n"


def _read_key(kernel: Kernel, path: str) -> bytes:
    try:
        return kernel.read(path)
    except OSError as error:
        raise UnavailableError(
            f"the SSH host key {path} cannot be read: {error.strerror}",
            hint="name it with --host-key, or give --no-host-key where SSH carries no evidence",
        ) from None


def _report(arguments: argparse.Namespace, kernel: Kernel) -> Output:
    report = get_tdreport(kernel, arguments.report_data)
    return _blob(arguments, report, {"tdreport": _base64(report)})


def _quote(arguments: argparse.Namespace, kernel: Kernel) -> Output:
    quote = get_quote(kernel, arguments.report_data)
    return _blob(
        arguments,
        quote.quote,
        {"quote": _base64(quote.quote), "provider": quote.provider, "generation": quote.generation},
    )


def _blob(arguments: argparse.Namespace, data: bytes, document: dict[str, Any]) -> Output:
    if arguments.raw:
        return 0, data
    return 0, _json({"report_data": arguments.report_data.hex(), **document})


def _eventlog(arguments: argparse.Namespace, kernel: Kernel) -> Output:
    table, data = read_ccel(kernel)
    if arguments.raw:
        return 0, data
    events = [
        {
            "register": event.mr_name.lower(),
            "type": event.type_name,
            "digest": (event.digest() or b"").hex(),
            "data": _base64(event.data),
        }
        for event in EventLog.parse(data).events
    ]
    return 0, _json({"ccel_table": _base64(table), "ccel_data": _base64(data), "events": events})


def _extend(arguments: argparse.Namespace, kernel: Kernel) -> Output:
    digest = arguments.digest if arguments.file is None else _digest_of(arguments.file)
    done = extend(kernel, arguments.rtmr, digest)
    return 0, _json(
        {
            "register": done.name,
            "digest": done.digest.hex(),
            "before": done.before.hex(),
            "after": done.after.hex(),
        }
    )


def _digest_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha384").digest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="name a file with --file") from None


def _check(_arguments: argparse.Namespace, kernel: Kernel) -> Output:
    checks = check(kernel)
    bad = any(one.status == "fail" for one in checks)
    return int(bad), _json(
        {
            "checks": [
                {
                    "id": one.id,
                    "status": one.status,
                    "expected": one.expected,
                    "found": one.found,
                    "detail": one.detail,
                }
                for one in checks
            ]
        }
    )


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=2).encode("ascii") + b"\n"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _hex(size: int) -> Callable[[str], bytes]:
    def convert(text: str) -> bytes:
        try:
            data = bytes.fromhex(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not hexadecimal") from None
        if len(data) != size:
            raise argparse.ArgumentTypeError(f"{len(data)} bytes given, {size} needed")
        return data

    return convert


def _report_data(text: str) -> bytes:
    """Up to 64 bytes; zeros fill the rest."""
    try:
        data = bytes.fromhex(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not hexadecimal") from None
    if len(data) > REPORT_DATA_SIZE:
        raise argparse.ArgumentTypeError(f"{len(data)} bytes given, at most {REPORT_DATA_SIZE} fit")
    return data.ljust(REPORT_DATA_SIZE, b"\0")
