"""Specifications of machines as files: YAML, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tdxstack import yaml_text
from tdxstack.errors import UnavailableError, UsageError
from tdxstack.machine.spec import HINT, WHAT, MachineSpec
from tdxstack.machine.spec_values import DIRECTORY, TEXT


def read_spec(path: Path) -> MachineSpec:
    """The machine that the file `path` describes; relative paths in it start from its directory.

    Raises `UnavailableError` where it cannot be read, and as `parse_spec` does.
    """
    return changed_spec(path, {})


def changed_spec(path: Path | None, changes: Mapping[str, object]) -> MachineSpec:
    """The machine of a file, or a default one, with fields in their written form, as if they stood there.

    A field of a part has dots in its name: `td.debug`. Relative paths among `changes` start from the current
    directory. Raises as `read_spec` does, and `UsageError` for a field of what has no fields.
    """
    text = b"" if path is None else _read(path)
    document = yaml_text.load(text, WHAT, hint=HINT)
    directory = Path().absolute() if path is None else path.absolute().parent
    if not isinstance(document, dict):
        return MachineSpec.model_validate(document)
    for place, value in changes.items():
        _change(document, place, value)
    return MachineSpec.model_validate(document, context={DIRECTORY: directory, TEXT: text})


def write_spec(spec: MachineSpec) -> bytes:
    """What `parse_spec` reads `spec` from, in JSON, which is YAML too: the fields that were given."""
    return spec.model_dump_json(exclude_unset=True, indent=1).encode()


def parse_spec(text: bytes, directory: Path) -> MachineSpec:
    """Read a machine in YAML. Raises `MalformedError` that lists everything that is wrong, with its place."""
    document = yaml_text.load(text, WHAT, hint=HINT)
    return MachineSpec.model_validate(document, context={DIRECTORY: directory, TEXT: text})


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(yaml_text.MAX_SIZE + 1)
    except OSError as error:
        raise UnavailableError(
            f"{path} cannot be read: {error.strerror}", hint="name a file that describes a machine"
        ) from None


def _change(document: dict[str, Any], place: str, value: object) -> None:
    *parts, last = place.split(".")
    for part in parts:
        inner = document.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UsageError(f"{place}: {part} has no fields in this specification", hint=HINT)
        document = inner
    document[last] = value
