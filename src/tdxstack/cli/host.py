"""`tdx host`: this machine as a TDX host."""

from __future__ import annotations

import click

from tdxstack.cli.host_module import module
from tdxstack.cli.host_report import report
from tdxstack.cli.host_setup import setup


@click.group()
def host() -> None:
    """Look after this machine as a TDX host."""


host.add_command(setup)
host.add_command(report)
host.add_command(module)
