"""`tdx predict`: what a machine will measure, before it boots."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tdxstack.cli import json_option, print_json
from tdxstack.cli.edge import mirror_options, surroundings
from tdxstack.cli.progress import progress_display
from tdxstack.errors import UsageError
from tdxstack.files import write_atomically
from tdxstack.machine.spec_parts import DirectKernel
from tdxstack.measurement.corim import to_corim
from tdxstack.measurement.reference import Reference
from tdxstack.platform import Platform
from tdxstack.terminal import printable
from tdxstack.workflows.predict import PredictRequest, PredictResult, predict_machine
from tdxstack.workflows.workshop import Workshop

EXISTING_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
SHOWN = 16
"""Hexadecimal digits of a digest that the table shows; --json has them all."""


@click.command()
@click.argument("name", default="")
@click.option(
    "--platform",
    type=click.Choice([platform.value for platform in Platform]),
    help="Hardware or emulated. [default: hardware where KVM offers it, else emulated]",
)
@click.option("--firmware", type=EXISTING_FILE, help="TDVF file.")
@click.option("--image", type=EXISTING_FILE, help="Disk image to boot, qcow2 or raw. [default: tdx's own]")
@click.option("--kernel", type=EXISTING_FILE, help="Kernel that QEMU hands to the firmware.")
@click.option("--initrd", type=EXISTING_FILE, help="Initial RAM disk of that kernel.")
@click.option("--append", default="", metavar="TEXT", help="Command line of that kernel.")
@click.option("--vcpus", default=2, show_default=True, help="Virtual CPUs.")
@click.option("--memory", "memory_mib", default=2048, show_default=True, help="Memory in MiB.")
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
    platform: str | None,
    firmware: Path | None,
    image: Path | None,
    kernel: Path | None,
    initrd: Path | None,
    append: str,
    vcpus: int,
    memory_mib: int,
    module: Path | None,
    output: Path | None,
    corim: Path | None,
    portable: bool,
    mirror: str,
    require_fresh: bool,
    as_json: bool,
) -> int:
    """Predict what a TD will measure: each event, and the registers that they make. Nothing is booted.

    NAME is a machine that `tdx up` has made; without it, the machine that the options describe. The ACPI
    tables are asked of the very QEMU that will run it. What cannot be predicted is named with the reason,
    and makes the exit code 1.
    """
    if kernel is None and (initrd is not None or append):
        raise UsageError("--initrd and --append go with --kernel", hint="give --kernel FILE")
    if portable and output is None:
        raise UsageError("--portable is about the file of --output", hint="give --output FILE")
    direct_kernel = None
    if kernel is not None:
        direct_kernel = DirectKernel(
            kernel=kernel.absolute(), initrd=initrd and initrd.absolute(), command_line=append
        )
    request = PredictRequest(
        name=name,
        platform=Platform(platform) if platform else None,
        firmware=firmware,
        image=image,
        vcpus=vcpus,
        memory_mib=memory_mib,
        direct_kernel=direct_kernel,
        module=module,
    )
    with progress_display() as display:
        workshop = Workshop(surroundings(), mirror=mirror, require_fresh=require_fresh, report=display.report)
        result = predict_machine(request, surroundings(), workshop)
        for note in result.notes:
            display.note(note)
        title = name or (image or result.launch.firmware).name
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
    return 1 if result.prediction.unpredicted else 0


def _print(result: PredictResult) -> None:
    console = Console()
    table = Table("REGISTER", "TYPE", "DIGEST", "MEANING", "FROM", box=None)
    for event in result.prediction.events:
        digest = event.digest.hex()[:SHOWN] + "…" if event.digest is not None else "unknown"
        meaning = f"{event.meaning}: {event.reason}" if event.reason else event.meaning
        cells = (event.register, event.type_name.removeprefix("EV_"), digest, meaning, event.source)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console.print(table)
    click.echo()
    for name, value in result.prediction.registers.items():
        click.echo(f"{name:<6} {value.hex() if value is not None else 'cannot be predicted'}")
    click.echo(f"mrtd where all pages are added first: {result.prediction.mrtd.two_pass.hex()}")
    if result.emulated:
        console.print("[bold yellow]emulated: such a TD is not protected[/]")
