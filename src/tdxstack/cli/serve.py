"""`tdx serve`: the services of the stack, in the foreground."""

from __future__ import annotations

from pathlib import Path

import click

from tdxstack.cli.edge import directories
from tdxstack.files import make_private
from tdxstack.quoting.__main__ import main as serve_quotes
from tdxstack.quoting.service import Service


@click.group()
def serve() -> None:
    """Run the services of the stack."""


@serve.command()
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    help="Unix socket to serve on. [default: where machines look]",
)
@click.option("--vsock-port", type=int, help="Serve on this vsock port too (Intel's QGS uses 4050).")
@click.option(
    "--quote-version", type=click.IntRange(4, 5), default=4, show_default=True, help="Version of the quotes."
)
def qgs(socket: Path | None, vsock_port: int | None, quote_version: int) -> int:
    """Run the quote generation service of the emulated platform until it is interrupted.

    `tdx up` starts one by itself; this is for TDs that are started by other means. Its quotes are emulated:
    they prove nothing about hardware.
    """
    where = directories()
    place = socket or Service.of_user(where.runtime).socket
    make_private(place.absolute().parent)
    arguments = ["--pki-dir", str(where.data / "pki"), "--socket", str(place)]
    arguments += ["--quote-version", str(quote_version)]
    if vsock_port is not None:
        arguments += ["--vsock-port", str(vsock_port)]
    return serve_quotes(arguments)
