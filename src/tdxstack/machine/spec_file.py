"""Specifications of machines as files: YAML, read strictly."""

from __future__ import annotations

from pathlib import Path

from tdxstack import yaml_text
from tdxstack.errors import UnavailableError
from tdxstack.machine.spec import HINT, WHAT, MachineSpec
from tdxstack.machine.spec_values import DIRECTORY


def read_spec(path: Path) -> MachineSpec:
    """The machine that the file `path` describes; relative paths in it start from its directory.

    Raises `UnavailableError` where it cannot be read, and as `parse_spec` does.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UnavailableError(
            f"{path} cannot be read: {error.strerror}", hint="name a file that describes a machine"
        ) from None
    return parse_spec(text, path.absolute().parent)


def parse_spec(text: bytes, directory: Path) -> MachineSpec:
    """Read a machine in YAML. Raises `MalformedError` that lists everything that is wrong, with its place."""
    document = yaml_text.load(text, WHAT, hint=HINT)
    return MachineSpec.model_validate(document, context={DIRECTORY: directory})
