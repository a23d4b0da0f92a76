"""`tdx image`: guest images."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tdxstack.cli import EXISTING_FILE, json_option, print_json
from tdxstack.cli.edge import (
    mirror_options,
    prepare_host,
    surroundings,
    yes_option,
)
from tdxstack.cli.image_files import convert, grow, inspect, list_images, rm
from tdxstack.cli.progress import progress_display
from tdxstack.cli.sudo import become_invoking_user
from tdxstack.cli.verification_options import read_bounded
from tdxstack.errors import UsageError
from tdxstack.image.additions import seed
from tdxstack.image.built import Image
from tdxstack.image.disk import Tools
from tdxstack.image.distribution import DISTRIBUTIONS
from tdxstack.image.packages import MAX_LOCK_SIZE, Lock
from tdxstack.image.recipe import Boot, CloudInit, Format, ImageRecipe, Root, parse_recipe
from tdxstack.image.seed import seed_disk
from tdxstack.workflows.image import BuildRequest, BuildResult, build_image, plan_build
from tdxstack.workflows.workshop import Workshop
from tdxstack.yaml_text import MAX_SIZE

_INSTANCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@click.group()
def image() -> None:
    """Build and look after guest images."""


for _command in (list_images, inspect, rm, convert, grow):
    image.add_command(_command)


@image.command()
@click.argument("recipe", type=EXISTING_FILE, required=False)
@click.option("--name", help="What to call the image.")
@click.option("--distribution", type=click.Choice(sorted(DISTRIBUTIONS)), help="[default: the host's]")
@click.option("--release", metavar="CODENAME", help="Release of the distribution.")
@click.option("--kernel", metavar="ORIGIN", help="distribution or backports.")
@click.option(
    "--boot",
    type=click.Choice([value.value for value in Boot]),
    help="What the firmware starts. [default: grub]",
)
@click.option(
    "--root", type=click.Choice([value.value for value in Root]), help="Root file system. [default: ext4]"
)
@click.option("--size", metavar="SIZE", help="Size of the disk, such as 4G.")
@click.option("--package", "packages", multiple=True, metavar="NAME", help="Package to install; repeatable.")
@click.option("--ssh-key", "ssh_keys", multiple=True, metavar="KEY", help="Public key of root, or its file.")
@click.option("--secure-boot", metavar="KEYS", help="Sign with the keys in a directory, or with your `own`.")
@click.option(
    "--format",
    "format_",
    type=click.Choice([value.value for value in Format]),
    help="Disk format. [default: qcow2]",
)
@click.option("--lock", type=EXISTING_FILE, help="Take exactly the packages and the time of a lock file.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory to copy the image into, with manifest, SBOM, lock file and checksums.",
)
@click.option("--reference", is_flag=True, help="Write `tdx predict`'s reference values beside the copy.")
@click.option("--firmware", type=EXISTING_FILE, help="TDVF of the reference values. [default: tdx up's]")
@click.option("--refresh", is_flag=True, help="Look for newer packages.")
@click.option("--verify", is_flag=True, help="Build a second time from nothing, and compare every byte.")
@mirror_options
@yes_option
@click.option("--dry-run", is_flag=True, help="Say what would be built of what, and do none of it.")
@json_option
def build(
    recipe: Path | None,
    lock: Path | None,
    output: Path | None,
    reference: bool,
    firmware: Path | None,
    refresh: bool,
    verify: bool,
    mirror: str,
    require_fresh: bool,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Build a guest image from a RECIPE (docs/reference/image-recipe.md), if it is not there yet.

    Options take the place of what the recipe says. Without either, it is the image that `tdx up` boots. The
    exit code is 1 if --verify finds a difference.
    """
    wanted = _recipe(recipe, options)
    request = BuildRequest(
        recipe=wanted,
        lock=Lock.parse(read_bounded(lock, MAX_LOCK_SIZE)) if lock else None,
        output=output,
        reference=reference,
        firmware=firmware,
        refresh=refresh,
        verify=verify,
        mirror=mirror,
        require_fresh=require_fresh,
    )
    if dry_run:
        become_invoking_user()
        _print_plan(plan_build(request, surroundings()), as_json=as_json)
        return 0
    with progress_display() as display:
        prepare_host(
            ["image", "emulator"] if reference else ["image"],
            yes=yes,
            report=display.report,
            note=display.note,
        )
        result = build_image(request, surroundings(), display.report)
        for warning in result.image.warnings:
            display.note(f"warning: {warning}")
    _print_result(result, as_json=as_json)
    return 1 if result.differences else 0


@image.command("seed")
@click.option("--user-data", type=EXISTING_FILE, help="cloud-init's user data. [default: none]")
@click.option("--meta-data", type=EXISTING_FILE, help="Its meta data. [default: an instance-id]")
@click.option("--instance", default="seed", show_default=True, help="Its instance-id without meta data.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File.")
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
@mirror_options
@json_option
def seed_command(
    user_data: Path | None,
    meta_data: Path | None,
    instance: str,
    output: Path,
    dry_run: bool,
    mirror: str,
    require_fresh: bool,
    as_json: bool,
) -> None:
    """Write a disk from which cloud-init in a guest takes what to do at its first start.

    It is raw, and only you can read it. Give it to a machine as a further disk; it is labelled CIDATA, which
    images with cloud-init look for (data source NoCloud).
    """
    become_invoking_user()
    if not _INSTANCE.fullmatch(instance):
        raise UsageError(
            f"{instance[:80]!r} is no instance-id", hint="use letters, digits, hyphens, dots and underscores"
        )
    files = seed(
        CloudInit.model_validate({"user_data": _text(user_data), "meta_data": _text(meta_data)}), instance
    )
    if not dry_run:
        workshop = Workshop(surroundings(), mirror=mirror, require_fresh=require_fresh)
        seed_disk(Tools(workshop.toolbox, 0), files, output)
    if as_json:
        print_json({"output": str(output), "files": sorted(files), "written": not dry_run})
    else:
        click.echo(f"{'would write' if dry_run else 'wrote'} {output}: {', '.join(sorted(files))}")


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def _recipe(path: Path | None, options: dict[str, Any]) -> ImageRecipe:
    given = {name.rstrip("_"): value for name, value in options.items() if value not in (None, ())}
    given |= {name: list(given[name]) for name in ("packages", "ssh_keys") if name in given}
    if path is None:
        return parse_recipe(b"", Path(), given)
    name = path.name.partition(".")[0].lower()
    return parse_recipe(read_bounded(path, MAX_SIZE), path.parent, given, name=name)


def _print_plan(steps: list[str], *, as_json: bool) -> None:
    if as_json:
        print_json({"steps": steps})
    else:
        click.echo("\n".join(steps))


def _print_result(result: BuildResult, *, as_json: bool) -> None:
    one = result.image
    if as_json:
        verified = {"verified": not result.differences, "differences": result.differences}
        written = {"written": [str(path) for path in result.written]}
        print_json(_document(one) | written | (verified if result.compared else {}))
        return
    click.echo(f"{one.path}\nkernel {one.kernel_version}, {len(one.packages)} packages, key {one.key}")
    if one.root_hash:
        click.echo(f"root hash {one.root_hash}")
    for path in result.written:
        click.echo(f"wrote {path}")
    if result.compared:
        found = ", ".join(result.differences) or "nothing"
        click.echo(f"different when built a second time: {found}")


def _document(one: Image) -> dict[str, object]:
    return asdict(one) | {"path": str(one.path)}
