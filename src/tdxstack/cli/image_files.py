"""`tdx image list`, `inspect`, `rm`, `convert` and `grow`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tdxstack.cli import EXISTING_FILE, json_option, print_json
from tdxstack.cli.amounts import age_text, size_text
from tdxstack.cli.edge import directories, mirror_options, now, surroundings
from tdxstack.cli.progress import progress_display
from tdxstack.cli.sudo import become_invoking_user
from tdxstack.errors import UsageError, about
from tdxstack.firmware.contents import open_contents
from tdxstack.firmware.find import read_image
from tdxstack.run import command_line
from tdxstack.terminal import printable
from tdxstack.workflows import image_change
from tdxstack.workflows.image_change import Form
from tdxstack.workflows.image_inspect import inspect_image
from tdxstack.workflows.images import find_image, image_file, images, remove_image, users
from tdxstack.workflows.readable_disk import readable
from tdxstack.workflows.workshop import Workshop

DRY_RUN = click.option("--dry-run", is_flag=True, help="Print what would be done, and do none of it.")
FILE = click.Path(path_type=Path, dir_okay=False)
WORK = Path("WORK")
"""How a dry run calls the directory of the copy."""


@click.command("list")
@json_option
def list_images(as_json: bool) -> None:
    """List the guest images that are built, and the machines that read from each.

    A NAME (of the newest) or KEY stands for its image wherever a command takes one; --json has the paths.
    """
    become_invoking_user()
    found = images(directories())
    if as_json:
        print_json({"images": [one.to_json() for one in found]})
        return
    if not found:
        click.echo("no image is built here; `tdx image build` builds one")
        return
    table = Table("NAME", "KEY", "SIZE", "KERNEL", "AGE", "MACHINES", box=None)
    for one in found:
        age, machines = age_text(now() - one.built), ", ".join(one.machines) or "-"
        table.add_row(
            one.image.name, one.image.key, size_text(one.size), one.image.kernel_version, age, machines
        )
    Console(soft_wrap=True).print(table)


@click.command("inspect")
@click.argument("image")
@click.option("--firmware", type=EXISTING_FILE, help="TDVF whose keys to ask. [default: what `tdx up` boots]")
@mirror_options
@json_option
def inspect(image: str, firmware: Path | None, mirror: str, require_fresh: bool, as_json: bool) -> int:
    """Show what is in a disk IMAGE: partitions, boot chain, kernels, and who would let its programs start.

    IMAGE is a file, qcow2 or raw, or the key of a built image. Nothing is mounted. The keys of the firmware,
    your own and those of shims on the disk are asked. Exit code 1 where something is damaged or not seen.
    """
    become_invoking_user()
    with progress_display() as display:
        workshop = Workshop(surroundings(), mirror=mirror, require_fresh=require_fresh, report=display.report)
        path = image_file(directories(), image)
        if firmware is None:
            here = workshop.firmware_here()
            firmware = here.path if here else None
        own = workshop.own_keys() if workshop.own_keys_directory.exists() else None
        with about(f"firmware {firmware}"):
            contents = open_contents(read_image(firmware)) if firmware else None
        with about(f"disk image {path}"):
            found = inspect_image(path, contents, own, workshop.toolbox, _scratch(), report=display.report)
    document = found.to_json() | {"firmware": str(firmware) if firmware else None}
    if as_json:
        print_json(document)
    else:
        _print_inspection(document)
    return 1 if found.problems else 0


@click.command()
@click.argument("key")
@DRY_RUN
@json_option
def rm(key: str, dry_run: bool, as_json: bool) -> None:
    """Delete the built image with that KEY, or the start of one; not while a machine reads from it."""
    become_invoking_user()
    one = find_image(directories(), key)
    if not dry_run:
        remove_image(directories(), one)
    if as_json:
        print_json({"would_remove" if dry_run else "removed": one.image.key, "size": one.size})
    else:
        click.echo(
            f"{'would remove' if dry_run else 'removed'} {one.image.path.parent}, {size_text(one.size)}"
        )


@click.command()
@click.argument("image")
@click.argument("output", type=FILE)
@click.option(
    "--format",
    "form",
    type=click.Choice([form.value for form in Form]),
    help="Form of OUTPUT. [default: as its name says]",
)
@DRY_RUN
@mirror_options
@json_option
def convert(
    image: str, output: Path, form: str | None, dry_run: bool, mirror: str, require_fresh: bool, as_json: bool
) -> None:
    """Write a disk IMAGE as OUTPUT: raw and sparse, or qcow2 compressed with zstd.

    IMAGE is a file or the key of a built image. Of an overlay, what lies below goes along.
    """
    become_invoking_user()
    with progress_display() as display:
        workshop = Workshop(surroundings(), mirror=mirror, require_fresh=require_fresh, report=display.report)
        source = image_file(directories(), image)
        target = Form(form) if form else Form.of_name(output)
        get = workshop.toolbox.find if dry_run else workshop.toolbox.program
        programs = {"qemu-img": get("qemu-img")}
        command = image_change.convert_command(programs, source, output, target)
        if not dry_run:
            display.report(f"writing {output}", None)
            image_change.convert(programs, source, output, target)
    if as_json:
        print_json({"image": str(source), "output": str(output), "format": target.value, "command": command})
    else:
        click.echo(f"would run: {command_line(command)}" if dry_run else f"{output}: {target.value}")


@click.command()
@click.argument("image")
@click.argument("size")
@click.option("-o", "--output", type=FILE, help="File to write. [default: IMAGE itself]")
@DRY_RUN
@mirror_options
@json_option
def grow(
    image: str,
    size: str,
    output: Path | None,
    dry_run: bool,
    mirror: str,
    require_fresh: bool,
    as_json: bool,
) -> None:
    """Make a disk IMAGE larger, with its last partition and the ext4 file system in it.

    SIZE is that of the disk, as 8G, or what to add, as +2G. This works on a copy, which takes the image's
    place at the end. The partition table is measured into RTMR1, so that predictions change.
    """
    become_invoking_user()
    with progress_display() as display:
        workshop = Workshop(surroundings(), mirror=mirror, require_fresh=require_fresh, report=display.report)
        source = image_file(directories(), image)
        target = output or source
        _refuse_shared(target)
        with (
            readable(source, workshop.toolbox, _scratch(), display.report) as form,
            about(f"disk image {source}"),
        ):
            growth = image_change.plan_growth(source, form, size)
        get = workshop.toolbox.find if dry_run else workshop.toolbox.program
        programs = {name: get(name) for name in image_change.GROWTH_PROGRAMS}
        if not dry_run:
            display.report(f"growing {source}", None)
            image_change.grow(programs, growth, target)
    commands = growth.commands(programs, WORK, target)
    if as_json:
        document = {"image": str(source), "output": str(target), "old_size": growth.old_size}
        print_json(
            document | {"size": growth.size, "partition": growth.partition.number, "commands": commands}
        )
    elif dry_run:
        for command in commands:
            click.echo(f"would run: {image_change.shown(growth, command)}")
    else:
        number = growth.partition.number
        click.echo(
            f"{target}: {size_text(growth.size)}, partition {number} {size_text(growth.partition_size)}"
        )


def _scratch() -> Path:
    return directories().cache / "image"


def _refuse_shared(path: Path) -> None:
    """Raise `UsageError` for an image that others read from, which must not change."""
    if names := users(directories(), path):
        raise UsageError(
            f"{path} is in use by {', '.join(names)}", hint="give --output, or remove the machine first"
        )
    if path.resolve() in [one.image.path.resolve() for one in images(directories())]:
        raise UsageError(f"{path} is a built image, which machines share", hint="give --output FILE")


def _print_inspection(document: Mapping[str, Any]) -> None:
    console = Console(soft_wrap=True)
    below = f", overlay of {document['backing']}" if document["backing"] else ""
    click.echo(printable(f"{document['path']}: {document['format']}, {size_text(document['size'])}{below}"))
    click.echo()
    table = Table("PARTITION", "NAME", "TYPE", "START", "SIZE", "CONTENT", box=None)
    for one in document["partitions"]:
        place = (hex(one["start"]), size_text(one["size"]), one["content"] or "-")
        table.add_row(str(one["number"]), Text(printable(one["name"])), one["type"], *place)
    console.print(table)
    click.echo()
    table = Table("PROGRAM", "KIND", "SIGNED BY", "STARTS BY", box=None)
    for one in document["programs"]:
        kind = f"{one['kind']} {one['version']}".rstrip()
        starts = [f"{who}: {key}" for who, key in (one["accepted_by"] or {}).items()]
        table.add_row(*map(_lines, ([one["path"]], [kind], one["signed_by"], starts)))
    console.print(table)
    click.echo()
    for one in document["kernels"]:
        click.echo(printable(f"kernel {one['version'] or one['path']}: {_ability(one)}"))
    for number, stage in enumerate(document["chain"]):
        text = f"{stage['path']}: {stage['kind']} {stage['version']}".rstrip()
        click.echo(printable(f"{'then' if number else 'starts'} {text}"))
    if document["not_followed"]:
        click.echo(printable(f"not followed further: {document['not_followed']}"))
    if document["command_line"]:
        click.echo(printable(f"command line {document['command_line']}"))
    for problem in document["problems"]:
        click.echo(printable(f"problem: {problem}"))


def _lines(texts: Sequence[str]) -> Text:
    return Text("\n".join(map(printable, texts)) or "-")


def _ability(kernel: Mapping[str, Any]) -> str:
    if kernel["td_guest"] is None:
        return "whether a TD can run it is not known, as its configuration is not on the disk"
    if kernel["td_guest"]:
        return "a TD can run it"
    return f"no TD can run it: built without {', '.join(kernel['missing'])}"
