"""`tdx image`: guest images."""

from __future__ import annotations

from dataclasses import asdict

import click

from tdxstack.cli import json_option, print_json
from tdxstack.cli.edge import (
    mirror_options,
    prepare_host,
    surroundings,
    yes_option,
)
from tdxstack.cli.image_files import convert, grow, inspect, list_images, rm
from tdxstack.cli.progress import progress_display
from tdxstack.image.build import Image
from tdxstack.workflows.workshop import Workshop


@click.group()
def image() -> None:
    """Build and look after guest images."""


for _command in (list_images, inspect, rm, convert, grow):
    image.add_command(_command)


@image.command()
@click.option("--refresh", is_flag=True, help="Look for newer packages.")
@mirror_options
@yes_option
@json_option
def build(refresh: bool, mirror: str, require_fresh: bool, yes: bool, as_json: bool) -> None:
    """Build the guest image that `tdx up` boots, if it is not there yet."""
    with progress_display() as display:
        prepare_host(["image"], yes=yes, report=display.report, note=display.note)
        workshop = Workshop(surroundings(), mirror=mirror, require_fresh=require_fresh, report=display.report)
        made = workshop.image(refresh=refresh)
    if as_json:
        print_json(_document(made))
    else:
        click.echo(
            f"{made.path}\nkernel {made.kernel_version}, {len(made.packages)} packages, key {made.key}"
        )


def _document(one: Image) -> dict[str, object]:
    return asdict(one) | {"path": str(one.path)}
