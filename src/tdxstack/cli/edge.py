"""The edge of the program: the only place that asks the environment who, where and when it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tdxstack.cli.sudo import become_invoking_user
from tdxstack.errors import UnavailableError
from tdxstack.files import Directories
from tdxstack.run import Report

if TYPE_CHECKING:
    from tdxstack.workflows.workshop import Surroundings

INSTALL_LOG = Path("/var/log/tdxstack-host-packages.log")
"""Only root writes it, who alone can install host packages."""

Command = TypeVar("Command", bound=Callable[..., Any])


def directories() -> Directories:
    """The directories of the user who runs the command."""
    return Directories.of_user(os.environ, os.getuid())


def surroundings() -> Surroundings:
    """Where this command runs."""
    # Here, since commands on machines that are there do without all that machines are made with.
    from tdxstack.firmware.find import directories as firmware_directories
    from tdxstack.host_access import RealHost
    from tdxstack.workflows.workshop import Surroundings

    return Surroundings(
        directories=directories(),
        host=RealHost(),
        uid=os.getuid(),
        search_path=os.environ.get("PATH", os.defpath),
        firmware_places=firmware_directories(os.environ, Path.home()),
        clock=now,
    )


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def mirror_options(command: Command) -> Command:
    """Add `--mirror` and `--require-fresh`."""
    command = click.option(
        "--require-fresh",
        is_flag=True,
        help="Refuse package lists that are past their date, instead of warning.",
    )(command)
    return click.option(
        "--mirror", default="", metavar="URI", help="Package mirror to use. [default: the host's own]"
    )(command)


def yes_option(command: Command) -> Command:
    """Add `--yes`."""
    return click.option("--yes", is_flag=True, help="Install missing host packages without asking.")(command)


def prepare_host(purposes: Sequence[str], *, yes: bool, report: Report, note: Callable[[str], None]) -> None:
    """Install the host packages that are missing for `purposes`, then go on without root's powers under sudo.

    Says what it installs; asks on a terminal unless `yes`. Raises `UnavailableError` where they cannot
    be installed.
    """
    from tdxstack.toolbox import host_packages

    absent = host_packages.missing(host_packages.needed(purposes))
    if absent:
        note(f"host packages to install with apt-get: {' '.join(absent)}")
        asks = os.geteuid() == 0 and not yes and sys.stdin.isatty()
        if asks and not click.confirm("Install them?", err=True):
            raise UnavailableError(
                f"host packages are missing: {' '.join(absent)}",
                hint=f"run: apt-get install --no-install-recommends {' '.join(absent)}",
            )
        host_packages.install(absent, log=INSTALL_LOG, uid=os.geteuid(), now=now(), report=report)
    become_invoking_user()
