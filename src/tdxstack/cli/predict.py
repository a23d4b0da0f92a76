"""`tdx predict`: what a machine will measure, before it boots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
from rich.console import Console

from tdxstack.cli import EXISTING_FILE, json_option, print_json
from tdxstack.cli.edge import directories, mirror_options, surroundings
from tdxstack.cli.progress import progress_display
from tdxstack.errors import UsageError
from tdxstack.files import write_atomically
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_file import changed_spec
from tdxstack.measurement.corim import to_corim
from tdxstack.measurement.profile import RELEASES
from tdxstack.measurement.reference import Reference
from tdxstack.platform import Platform
from tdxstack.terminal import printable
from tdxstack.workflows.images import image_fields
from tdxstack.workflows.predict import PredictRequest, PredictResult, predict_machine
from tdxstack.workflows.workshop import Workshop

SHOWN = 16
"""Hexadecimal digits of a digest that the table shows; --json has them all."""


@click.command()
@click.argument("name", default="")
@click.option("--spec", "file", type=EXISTING_FILE, help="Specification of the machine, YAML.")
@click.option(
    "--platform",
    type=click.Choice([platform.value for platform in Platform]),
    help="Hardware or emulated. [default: hardware where KVM offers it, else emulated]",
)
@click.option("--firmware", type=EXISTING_FILE, help="TDVF file.")
@click.option(
    "--edk2",
    "release",
    type=click.Choice(RELEASES),
    metavar="RELEASE",
    help="Release of edk2 that the firmware was built of, such as 202405, where it does not say it.",
)
@click.option("--image", metavar="IMAGE", help="File, or built image, to boot from. [default: tdx's own]")
@click.option("--kernel", type=EXISTING_FILE, help="Kernel that QEMU hands to the firmware.")
@click.option("--initrd", type=EXISTING_FILE, help="Initial RAM disk of that kernel.")
@click.option("--append", default="", metavar="TEXT", help="Command line of that kernel.")
@click.option("--vcpus", type=int, help="Virtual CPUs. [default: the specification's, else 2]")
@click.option("--memory", help="Memory, as 2G or a number of MiB. [default: the specification's, else 2G]")
@click.option(
    "--log",
    type=EXISTING_FILE,
    help="Event log of a TD of a platform whose inputs are not public, with an --image: what comes before the"
    " boot loader is taken from it, and MRTD from the platform's --firmware.",
)
@click.option(
    "--module",
    type=EXISTING_FILE,
    help="TDX module file of the host, for MRSEAM: a .blob, or a module with its sigstruct beside it.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write reference values to a file, for whoever verifies such machines.",
)
@click.option(
    "--portable",
    is_flag=True,
    help="In the file, leave out of RTMR0 what depends on the machine's size and devices.",
)
@click.option(
    "--corim",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the reference values as a CoRIM (CBOR).",
)
@mirror_options
@json_option
def predict(
    name: str,
    file: Path | None,
    platform: str | None,
    firmware: Path | None,
    release: str | None,
    image: str | None,
    kernel: Path | None,
    initrd: Path | None,
    append: str,
    vcpus: int | None,
    memory: str | None,
    log: Path | None,
    module: Path | None,
    output: Path | None,
    corim: Path | None,
    portable: bool,
    mirror: str,
    require_fresh: bool,
    as_json: bool,
) -> int:
    """Predict what a TD will measure: each event, and the registers that they make. Nothing is booted.

    NAME is a machine that was made with tdx; without it, the machine of a specification, in which options
    replace what they say, or of options alone. The ACPI tables are asked of the very QEMU that will run it.
    What is missing of firmware, QEMU and image is fetched and built first. What cannot be predicted is named
    with the reason, and makes the exit code 1.
    """
    if portable and output is None:
        raise UsageError("--portable is about the file of --output", hint="give --output FILE")
    booted = image_fields(directories(), image) if image is not None else {}
    options = {
        "platform": platform,
        "firmware": firmware,
        "image": booted.pop("image", None),
        "direct_kernel.kernel": kernel,
        "direct_kernel.initrd": initrd,
        "direct_kernel.command_line": append,
        "vcpus": vcpus,
        "memory": memory,
    }
    if kernel is None:
        options |= booted
    if log is not None:
        others = {key for key, value in options.items() if value not in (None, "")}
        if name or file or release or not {"image"} <= others <= {"firmware", "image"}:
            raise UsageError(
                "--log goes with --image, and of a machine with nothing else but --firmware",
                hint="give the disk image that will start, and for MRTD the platform's firmware",
            )
    request = PredictRequest(name, _spec(name, file, options), module, log, release or "")
    with progress_display() as display:
        workshop = Workshop(surroundings(), mirror=mirror, require_fresh=require_fresh, report=display.report)
        result = predict_machine(request, surroundings(), workshop)
        for note in result.notes:
            display.note(note)
        title = name or request.spec.name or result.title
        reference = Reference.of(result.prediction, title, portable=portable)
        if corim is not None:
            write_atomically(corim, to_corim(reference))
        if output is not None:
            write_atomically(output, reference.to_json())
            for register, event in reference.open_events():
                display.note(f"open in {output}: {register} {event.meaning}: {event.reason}")
            for unknown in result.prediction.unpredicted:
                if unknown.and_more:
                    display.note(f"{output} demands nothing of {unknown.register}: {unknown.reason}")
    if as_json:
        print_json(result.to_json())
    else:
        _print(result)
    return 0 if result.prediction.whole else 1


def _spec(name: str, file: Path | None, options: Mapping[str, object]) -> MachineSpec:
    given = {
        field: str(value.absolute()) if isinstance(value, Path) else value
        for field, value in options.items()
        if value not in (None, "")
    }
    if name and (file or given):
        raise UsageError(
            f"the machine {name!r} is predicted as it is", hint="give its name, or say what it is made of"
        )
    if file is None and "direct_kernel.kernel" not in given and any("direct_kernel" in key for key in given):
        raise UsageError("--initrd and --append go with --kernel", hint="give --kernel FILE")
    return changed_spec(file, given)


def _print(result: PredictResult) -> None:
    events = result.prediction.events
    width = max((len(event.source) for event in events), default=0)
    click.echo(_line("REGISTER", "TYPE", "DIGEST", "FROM".ljust(width), "MEANING"))
    for event in events:
        digest = event.digest.hex()[:SHOWN] + "…" if event.digest is not None else "unknown"
        meaning = f"{event.meaning}: {event.reason}" if event.reason else event.meaning
        click.echo(_line(event.register, event.type_name, digest, event.source.ljust(width), meaning))
    click.echo()
    for name, value in result.prediction.registers.items():
        click.echo(f"{name:<6} {value.hex() if value is not None else 'cannot be predicted'}")
    if result.prediction.mrtd is not None:
        click.echo(f"mrtd where all pages are added first: {result.prediction.mrtd.two_pass.hex()}")
    if result.emulated:
        Console().print("[bold yellow]emulated: such a TD is not protected[/]")


def _line(register: str, kind: str, digest: str, source: str, meaning: str) -> str:
    """A line of the list; not wrapped, as in `tdx eventlog show`."""
    return f"{register:8}  {kind:32}  {digest:17}  {printable(source)}  {printable(meaning)}"
