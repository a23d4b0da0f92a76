"""`tdx vm export`."""

from __future__ import annotations

from pathlib import Path

import click

from tdxstack.cli import EXISTING_FILE, json_option, print_json
from tdxstack.cli.edge import surroundings
from tdxstack.cli.progress import progress_display
from tdxstack.errors import UsageError
from tdxstack.machine.spec_file import read_spec
from tdxstack.platform import Platform
from tdxstack.workflows.export import Format, export_machine, export_spec
from tdxstack.workflows.machines import Machines


@click.command()
@click.argument("name", required=False)
@click.option("--spec", "spec_file", type=EXISTING_FILE, help="File that describes a machine.")
@click.option(
    "--format",
    "format_name",
    type=click.Choice([format_.value for format_ in Format]),
    default=Format.QEMU.value,
    show_default=True,
    help="A QEMU command, a domain of libvirt, or a VirtualMachine of KubeVirt.",
)
@click.option(
    "--platform",
    type=click.Choice([platform.value for platform in Platform]),
    help="Where it is to run, whatever it says itself.",
)
@json_option
def export(
    name: str | None, spec_file: Path | None, format_name: str, platform: str | None, as_json: bool
) -> None:
    """Print what would run, of the machine NAME or of one that a file describes.

    What libvirt or KubeVirt cannot do of it is refused, each with the reason; where a machine does not say
    its platform, they run it on hardware. Parts that a QEMU command names are fetched and built first.
    """
    if (name is None) == (spec_file is None):
        raise UsageError("one machine is exported", hint="give a NAME, or --spec FILE")
    format_, wanted = Format(format_name), Platform(platform) if platform else None
    with progress_display() as display:
        machines = Machines(surroundings(), report=display.report)
        if spec_file is not None:
            found = export_spec(machines, read_spec(spec_file), format_, wanted)
        else:
            found = export_machine(machines, name or "", format_, wanted)
    for note in found.notes:
        click.echo(note, err=True)
    if as_json:
        document = {"format": format_name, "text": found.text, "notes": list(found.notes)}
        print_json(document | ({"argv": list(found.argv)} if found.argv else {}))
    else:
        click.echo(found.text, nl=False)
