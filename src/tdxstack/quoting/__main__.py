"""The quote generation service as a process: `python -m tdxstack.quoting`."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tdxstack.errors import TdxError
from tdxstack.files import lock
from tdxstack.quoting.enclave import QUOTE_VERSIONS, QuotingEnclave
from tdxstack.quoting.pki import open_pki
from tdxstack.quoting.qgs import VSOCK_PORT, serve
from tdxstack.quoting.responder import Responder
from tdxstack.quoting.service import READY, Service

_MAX_LOG_LINES = 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal comes, or until no TD needs the service. Returns the exit code."""
    options = _parser().parse_args(arguments)
    log = limited(lambda line: _say(f"{_now():%Y-%m-%dT%H:%M:%SZ} {line}"), _MAX_LOG_LINES)
    users: Path | None = options.users_dir
    service = Service(options.socket.absolute(), (users or options.socket).absolute())
    try:
        with lock(service.instance_lock, wait=False):
            pki = open_pki(options.pki_dir.absolute(), _now())
            enclave = QuotingEnclave(pki, quote_version=options.quote_version)
            responder = Responder(enclave, lambda: open_pki(pki.directory, _now()).collateral(), log)
            log(f"emulated quoting enclave {enclave.qe_id.hex()}, serving on {service.socket}")
            asyncio.run(
                serve(
                    responder,
                    service.socket,
                    vsock_port=options.vsock_port,
                    until=service.unused if users else None,
                    ready=lambda: _tell(options.ready_fd),
                )
            )
            log("ended")
    except TdxError as error:
        _say(f"error: {error.message}\nhint: {error.hint}")
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tdxstack.quoting", description="Quote generation service of the emulated platform."
    )
    parser.add_argument(
        "--pki-dir", type=Path, required=True, help="the emulated platform's keys; made if absent"
    )
    parser.add_argument("--socket", type=Path, required=True, help="unix socket to serve on")
    parser.add_argument("--users-dir", type=Path, help="end when no file in here has been locked for a while")
    parser.add_argument(
        "--vsock-port", type=int, nargs="?", const=VSOCK_PORT, help=f"serve on vsock too (port {VSOCK_PORT})"
    )
    parser.add_argument("--quote-version", type=int, choices=QUOTE_VERSIONS, default=4)
    parser.add_argument("--ready-fd", type=int, help="descriptor to write to when clients can connect")
    return parser


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _now() -> datetime:
    return datetime.now(UTC)


def _tell(descriptor: int | None) -> None:
    if descriptor is not None:
        os.write(descriptor, READY)
        os.close(descriptor)


def limited(log: Callable[[str], None], most: int) -> Callable[[str], None]:
    """`log` for the first lines only: a guest that asks for refusals must not fill the disk."""
    numbers = itertools.count(1)

    def first(line: str) -> None:
        number = next(numbers)
        if number < most:
            log(line)
        elif number == most:
            log("no more lines are logged")

    return first


if __name__ == "__main__":
    sys.exit(main())
