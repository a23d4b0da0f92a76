"""`tdx vm create`."""

from __future__ import annotations

from pathlib import Path

import click

from tdxstack import yaml_text
from tdxstack.cli import EXISTING_FILE, json_option, print_json
from tdxstack.cli.edge import directories, mirror_options, prepare_host, surroundings, yes_option
from tdxstack.cli.progress import progress_display
from tdxstack.cli.sudo import become_invoking_user
from tdxstack.cli.vm_control import steps_document
from tdxstack.errors import UsageError
from tdxstack.machine.spec import HINT, MachineSpec
from tdxstack.machine.spec_file import changed_spec
from tdxstack.machine.spec_parts import Kind
from tdxstack.platform import Platform
from tdxstack.workflows.images import image_fields
from tdxstack.workflows.machines import Machines
from tdxstack.workflows.plan import plan_machine
from tdxstack.workflows.workshop import Surroundings, Workshop


@click.command()
@click.argument("file", required=False, type=EXISTING_FILE)
@click.option("--name", help="Its name. [default: the specification's, else td]")
@click.option("--kind", type=click.Choice([kind.value for kind in Kind]), help="[default: td]")
@click.option("--platform", type=click.Choice([platform.value for platform in Platform]))
@click.option("--vcpus", help="Virtual CPUs. [default: 2]")
@click.option("--memory", help="Memory, as 2G or a number of MiB. [default: 2G]")
@click.option("--image", metavar="IMAGE", help="File, or built image, to boot from. [default: tdx's own]")
@click.option("--firmware", type=click.Path(path_type=Path), help="Firmware to boot with.")
@click.option(
    "--set",
    "fields",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Any field of the specification, its parts with dots (td.debug=true); VALUE is YAML. Repeatable.",
)
@click.option(
    "--nokaslr",
    is_flag=True,
    help="For debugging: boot the image's kernel directly, at the addresses that its symbols have.",
)
@mirror_options
@yes_option
@click.option("--dry-run", is_flag=True, help="Say what would be fetched, made and run, and do nothing.")
@json_option
def create(
    file: Path | None,
    image: str | None,
    fields: tuple[str, ...],
    nokaslr: bool,
    mirror: str,
    require_fresh: bool,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    **options: str | Path | None,
) -> None:
    """Make a machine of a specification FILE, of options, or of both.

    What is missing is fetched and built first. The machine does not run yet: see tdx vm start. Its disk is an
    overlay that lasts until tdx vm rm; the image that it reads from is never written.
    """
    # before anything is installed; whose images there are is known only when this is the invoking user
    spec = _spec(file, options, {} if image is None else {"image": image}, fields)
    if dry_run:
        become_invoking_user()
        spec = _spec(file, options, _booted(image), fields)
        told = _planned(spec, surroundings(), nokaslr)
        if as_json:
            print_json(steps_document({spec.name: told}))
        for step in [] if as_json else told:
            click.echo(f"would  {spec.name}: {step}")
        return
    with progress_display() as display:
        prepare_host(["emulator", "image"], yes=yes, report=display.report, note=display.note)
        spec = _spec(file, options, _booted(image), fields)
        where = surroundings()
        workshop = Workshop(where, mirror=mirror, require_fresh=require_fresh, report=display.report)
        machine = Machines(where, workshop=workshop).create(spec, no_kaslr=nokaslr)
    if as_json:
        print_json({"name": machine.name, "state": machine.state(), "files": str(machine.files.directory)})
        return
    program = click.get_current_context().find_root().info_name
    click.echo(f"made {machine.name}; start it: {program} vm start {machine.name}")


def _booted(image: str | None) -> dict[str, object]:
    return {} if image is None else image_fields(directories(), image)


def _spec(
    file: Path | None,
    options: dict[str, str | Path | None],
    booted: dict[str, object],
    fields: tuple[str, ...],
) -> MachineSpec:
    # A path on the command line starts from where one is, wherever the file may be.
    changes: dict[str, object] = {
        name: str(value.absolute()) if isinstance(value, Path) else value
        for name, value in options.items()
        if value is not None
    }
    changes |= booted
    for text in fields:
        place, given, value = text.partition("=")
        if not given:
            raise UsageError(f"--set {text!r} is not FIELD=VALUE", hint=HINT)
        changes[place] = yaml_text.load(value.encode(), f"--set {place}", hint=HINT)
    spec = changed_spec(file, changes)
    return spec if spec.name else spec.changed(name="td")


def _planned(spec: MachineSpec, where: Surroundings, nokaslr: bool) -> list[str]:
    """What is to be fetched or built; where nothing is, the commands that make the machine and start it."""
    missing = [step.text for step in plan_machine(spec, where) if step.needed]
    if missing:
        return [*missing, "make the machine of these parts; --dry-run says how once they are there"]
    machines = Machines(where)
    return machines.steps(machines.plan(spec, no_kaslr=nokaslr))
