"""`tdx firmware enroll` and `tdx firmware sign`: Secure Boot keys, and programs signed with them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tdxstack.cli import EXISTING_FILE, json_option, print_json
from tdxstack.cli.edge import mirror_options, now, surroundings
from tdxstack.cli.progress import ProgressDisplay, progress_display
from tdxstack.errors import UnavailableError, UsageError, about
from tdxstack.files import write_atomically
from tdxstack.firmware.certificates import certificate_warnings
from tdxstack.firmware.contents import open_contents
from tdxstack.firmware.enroll import Enrollment, enroll, enroll_command
from tdxstack.firmware.find import read_image
from tdxstack.firmware.keys import DB, NAMES, OwnKeys, certificate_file
from tdxstack.firmware.signing import sign as sign_program
from tdxstack.firmware.signing import sign_command
from tdxstack.measurement.pe import Image
from tdxstack.run import command_line
from tdxstack.terminal import printable
from tdxstack.workflows.workshop import Workshop

OUTPUT = click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File to write."
)
MAX_PROGRAM = 1 << 30
DBX_FILE = Path("dbx.json")
"""How a dry run calls the file that virt-fw-vars gets the new dbx in."""


@click.command()
@click.argument("file", type=EXISTING_FILE, required=False)
@OUTPUT
@click.option(
    "--no-microsoft",
    is_flag=True,
    help="Drop the KEK and db that the firmware comes with, Microsoft's as a rule.",
)
@click.option("--setup-mode", is_flag=True, help="Delete PK, so that nothing is verified; add no own keys.")
@click.option("--db", type=EXISTING_FILE, multiple=True, help="Further certificate that lets programs start.")
@click.option("--dbx", type=EXISTING_FILE, multiple=True, help="Certificate that lets none start any more.")
@click.option("--dry-run", is_flag=True, help="Print what would run, and write nothing.")
@mirror_options
@json_option
def enroll_keys(
    file: Path | None,
    output: Path,
    no_microsoft: bool,
    setup_mode: bool,
    db: tuple[Path, ...],
    dbx: tuple[Path, ...],
    dry_run: bool,
    mirror: str,
    require_fresh: bool,
    as_json: bool,
) -> None:
    """Write your own Secure Boot keys into a copy of the firmware FILE (default: what `tdx up` boots).

    PK, KEK and db are made on first use, and kept in your data directory. A TD has no flash for variables, so
    that the keys go into the store inside the image: MRTD stays as it was, RTMR0 changes. Certificates are
    PEM or DER.
    """
    with progress_display() as display:
        workshop = Workshop(surroundings(), mirror=mirror, require_fresh=require_fresh, report=display.report)
        if file is None:
            present = workshop.firmware_here() if dry_run else workshop.firmware()
            if present is None:
                raise UnavailableError(
                    "no firmware for TDs is here", hint="name one; without --dry-run, one is downloaded"
                )
            file = present.path
        image = read_image(file)
        with about(f"firmware {file}"):
            contents = open_contents(image)
        warnings = [warning for path in (*db, *dbx) for warning in certificate_warnings(path, now())]
        for warning in warnings:
            display.note(f"warning: {warning}")
        directory = workshop.own_keys_directory
        own = {} if setup_mode else {name: certificate_file(directory, name) for name in NAMES}
        enrollment = Enrollment(own, keep=not no_microsoft, db=db, dbx=dbx)
        program = (workshop.toolbox.find if dry_run else workshop.toolbox.program)("virt-fw-vars")
        command = enroll_command(program.argv(), file, contents, enrollment, DBX_FILE, output)
        if dry_run:
            _print_plan(command, None if setup_mode or directory.exists() else directory, as_json)
            return
        if not setup_mode:
            _own_keys(workshop, display)
        made = enroll(program.argv(), file, image, enrollment)
        write_atomically(output, made.image)
    document = {"firmware": str(file), "output": str(output), "warnings": warnings} | made.to_json()
    if as_json:
        print_json(document)
    else:
        _print_enrolled(document)


def _print_plan(command: list[str], new_keys: Path | None, as_json: bool) -> None:
    if as_json:
        print_json({"command": command, "new_keys": str(new_keys) if new_keys else None})
        return
    if new_keys is not None:
        click.echo(f"would make PK, KEK and db in {new_keys}")
    click.echo(f"would run: {command_line(command)}")


def _print_enrolled(document: Mapping[str, Any]) -> None:
    state = document["secure_boot"]
    click.echo(f"{'Secure Boot':<12} {state['after']}, was {state['before']}")
    for name, change in document["variables"].items():
        lines = [
            f"{sign} {printable(one['subject'] or one['sha256'])}"
            for sign, which in (("-", "removed"), ("+", "added"))
            for one in change[which]
        ]
        for number, line in enumerate(lines or ["as it was"]):
            click.echo(f"{'' if number else name:<12} {line}")
    click.echo(f"{'MRTD':<12} as it was: {document['mrtd']['single_pass']}")
    rtmr0 = "changes, as the variable store is measured into it" if document["rtmr0_changes"] else "as it was"
    click.echo(f"{'RTMR0':<12} {rtmr0}")
    click.echo(f"{'written':<12} {document['output']}, SHA-256 {document['sha256']}")


@click.command()
@click.argument("file", type=EXISTING_FILE)
@OUTPUT
@click.option("--dry-run", is_flag=True, help="Print what would run, and write nothing.")
@mirror_options
@json_option
def sign(file: Path, output: Path, dry_run: bool, mirror: str, require_fresh: bool, as_json: bool) -> None:
    """Sign the EFI program FILE (kernel, unified kernel image, boot loader) with your own db key.

    Signatures that it has stay. The same program gives the same bytes.
    """
    with progress_display() as display:
        workshop = Workshop(surroundings(), mirror=mirror, require_fresh=require_fresh, report=display.report)
        directory, unsigned = workshop.own_keys_directory, _read(file)
        with about(str(file)):
            Image.parse(unsigned)
        if dry_run:
            program = workshop.toolbox.find("sbsign")
            command = sign_command(program, file, output, directory)
            _print_plan(command, None if directory.exists() else directory, as_json)
            return
        keys = _own_keys(workshop, display)
        signed = sign_program(unsigned, keys, workshop.toolbox, report=display.report)
        write_atomically(output, signed)
    digest = hashlib.sha256(signed).hexdigest()
    certificate = certificate_file(directory, DB)
    if as_json:
        print_json(
            {"program": str(file), "output": str(output), "certificate": str(certificate), "sha256": digest}
        )
    else:
        click.echo(f"{output}, SHA-256 {digest}\nsigned with the key of {certificate}")


def _own_keys(workshop: Workshop, display: ProgressDisplay) -> OwnKeys:
    """The own keys; it is said where they are made."""
    if not workshop.own_keys_directory.exists():
        display.note(f"making PK, KEK and db in {workshop.own_keys_directory}")
    return workshop.own_keys()


def _read(path: Path) -> bytes:
    if (size := path.stat().st_size) > MAX_PROGRAM:
        raise UsageError(f"{path} has {size} bytes", hint=f"an EFI program has at most {MAX_PROGRAM}")
    return path.read_bytes()
