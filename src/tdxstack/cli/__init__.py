"""The command line. Modules here parse, call and render; they hold no logic.

Groups are imported only when they are used, so that `tdx --help` stays quick.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from tdxstack import __version__
from tdxstack.cli.sudo import become_invoking_user
from tdxstack.errors import TdxError
from tdxstack.terminal import printable

COMMANDS = {
    "up": ("tdxstack.cli.up:up", "Boot a TD, measure it and prove it: the main job, end to end."),
    "down": ("tdxstack.cli.up:down", "End a TD that `tdx up` left running, and remove its disk."),
    "doctor": ("tdxstack.cli.doctor:doctor", "Say whether this host can run TDs, and what to repair."),
    "host": ("tdxstack.cli.host:host", "Look after this machine as a TDX host."),
    "emulator": ("tdxstack.cli.emulator:emulator", "Build and look after the emulating QEMU."),
    "firmware": (
        "tdxstack.cli.firmware:firmware",
        "Find TDVF, show what it measures to, give it Secure Boot keys.",
    ),
    "image": ("tdxstack.cli.image:image", "Build and look after guest images."),
    "cache": ("tdxstack.cli.cache:cache", "See what fills the cache directory, and prune it."),
    "vm": ("tdxstack.cli.vm:vm", "Make, list, show, enter and control machines."),
    "quote": ("tdxstack.cli.quote:quote", "Show and verify quotes of TDs and SGX enclaves."),
    "report": ("tdxstack.cli.report:report", "Show TDREPORTs."),
    "eventlog": ("tdxstack.cli.eventlog:eventlog", "Show and replay event logs, and compare them."),
    "evidence": ("tdxstack.cli.evidence:evidence", "Show and verify what a TD has presented."),
    "explain": ("tdxstack.cli.explain:explain", "Explain a status code, an error message or a log."),
    "collateral": (
        "tdxstack.cli.collateral:collateral",
        "Fetch, show and convert what verifying a quote needs besides it.",
    ),
    "predict": ("tdxstack.cli.predict:predict", "Predict what a TD will measure, before it boots."),
    "compare": ("tdxstack.cli.compare:compare", "Say why two measurements differ."),
    "guest": ("tdxstack.cli.guest:guest", "Inside a TD: its evidence, its measurement registers."),
    "test": ("tdxstack.cli.test:test", "Find out whether machines work on this host."),
    "serve": ("tdxstack.cli.serve:serve", "Run the services of the stack."),
}
AS_ROOT = ("up", "vm", "emulator", "image", "doctor", "host", "guest", "test")
"""Commands that keep root's powers under sudo: to install packages, to look at the host or change it, or to
get evidence, which the kernel gives to nobody else."""

INTERRUPTED = 130

EXISTING_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
"""Of an argument or option: a file that is there."""

Command = TypeVar("Command", bound=Callable[..., Any])


class LazyGroup(click.Group):
    """A group whose commands are known by name and imported on use.

    `table` has where each is (MODULE:ATTRIBUTE) and what is said of it, by its name.
    """

    def __init__(self, *arguments: Any, table: Mapping[str, tuple[str, str]], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._table:
            return None
        module, attribute = self._table[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._table.items()])


@click.group(cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", prog_name="tdx", message="%(prog)s %(version)s")
@click.pass_context
def tdx(ctx: click.Context) -> None:
    """The Linux stack for Intel TDX: launch Trust Domains, measure them, prove what they booted.

    On TDX hardware with upstream components, or on any Linux machine in an emulated TD.
    An emulated TD is not protected.
    """
    if ctx.invoked_subcommand not in AS_ROOT:
        become_invoking_user()


def json_option(command: Command) -> Command:
    """Add `--json`: one JSON document on stdout."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(command)


def print_json(document: object) -> None:
    """Print one JSON document on stdout."""
    click.echo(json.dumps(document, indent=2))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every error ends as two lines on stderr and an exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    for number in (signal.SIGTERM, signal.SIGHUP):
        # They end a command as Ctrl-C does, so that everything that it owns is cleaned up; not one that was
        # started so that it goes on (nohup).
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    # The launcher says under which name the user called it.
    program = os.environ.pop("TDX_PROGRAM", "tdx")
    if os.environ.get("TDX_DEBUG") == "1":
        sys.exit(tdx.main(words, prog_name=program, standalone_mode=False) or 0)
    # What libraries warn of is for their users. Whoever writes a certificate could make them say it here.
    warnings.simplefilter("ignore")
    try:
        sys.exit(tdx.main(words, prog_name=program, standalone_mode=False) or 0)
    except TdxError as error:
        sys.exit(_report(words, error.message, error.hint, error.exit_code))
    except click.UsageError as error:
        hint = f"see: {error.ctx.command_path} --help" if error.ctx else "see: tdx --help"
        sys.exit(_report(words, error.format_message(), hint, 2))
    except (click.Abort, KeyboardInterrupt):
        # An object that was half made when the interrupt came, such as an event loop, complains as it goes.
        sys.unraisablehook = lambda _complaint: None
        sys.exit(_report(words, "interrupted", "", INTERRUPTED))
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            _leave_quietly()
        hint = "check the space and the permissions there; TDX_DEBUG=1 shows where it happened"
        sys.exit(_report(words, f"{error.filename or 'the system'}: {error.strerror or error}", hint, 3))


def _leave_quietly() -> NoReturn:
    """The reader has gone (tdx ... | head): say nothing more, also not at interpreter exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


def _report(words: list[str], message: str, hint: str, exit_code: int) -> int:
    for kind, text in (("error", message), ("hint", hint)):
        if text:
            # It may name what others have called a file.
            click.echo(printable(f"{kind}: {text}".replace("\n", " ")), err=True)
    if "--json" in words:
        with contextlib.suppress(OSError):  # where stdout itself is what failed, stderr has said so
            # On one line, as it may follow the lines of a batch.
            click.echo(json.dumps({"error": message, "hint": hint, "exit_code": exit_code}))
    return exit_code
