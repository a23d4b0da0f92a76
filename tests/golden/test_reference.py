"""Reference pages that are generated. Set TDX_UPDATE_GOLDEN=1 to write them anew."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click

from tdxstack.cli import tdx
from tdxstack.cli.vm_libvirt import libvirt
from tdxstack.verification.boot import BOOT_CHECKS
from tdxstack.verification.quote import POLICY_CHECKS
from tdxstack.verification.reference_checks import REFERENCE_CHECKS

REFERENCE = Path(__file__).parents[2] / "docs/reference"


def test_every_command_is_documented_as_its_help_says() -> None:
    page = REFERENCE / "commands.md"
    text = "".join(
        [
            "# Commands\n\nGenerated from the commands' own help (`tests/golden/test_reference.py`).\n",
            *pages(tdx, "tdx", None),
            *pages(libvirt, "tdx vm --connect URI", None),
        ]
    )
    if os.environ.get("TDX_UPDATE_GOLDEN") == "1":
        page.write_text(text)
    assert page.read_text() == text


def test_every_check_is_explained() -> None:
    explained = [
        line.split("`")[1]
        for line in (REFERENCE / "checks.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    assert explained == [*BOOT_CHECKS, *POLICY_CHECKS, *REFERENCE_CHECKS]


def pages(command: click.Command, path: str, parent: click.Context | None) -> Iterator[str]:
    """A section for the command and each one below it."""
    settings = command.context_settings
    word = path if parent is None else path.split()[-1]
    with click.Context(command, info_name=word, parent=parent, terminal_width=100, **settings) as context:
        yield f"\n## {path}\n\n```text\n{command.get_help(context)}\n```\n"
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                yield from pages(child, f"{path} {name}", context)
