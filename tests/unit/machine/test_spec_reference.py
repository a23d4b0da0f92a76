"""docs/reference/machine-spec.md has every field, no other, and examples that are right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from tdxstack.machine.refusals import SMBIOS_FIELDS
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_file import parse_spec
from tdxstack.machine.spec_parts import Disk, Kind

PAGE = (Path(__file__).parents[3] / "docs/reference/machine-spec.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
ROW = re.compile(r"^\| `([a-z_.]+)` \|", re.MULTILINE)


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models within an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models(argument)


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Paths of all fields; those that only hold others are not named."""
    for name, field in model.model_fields.items():
        inner = list(models(field.annotation))
        if inner and inner[0] is not Disk:
            yield from fields(inner[0], f"{prefix}{name}.")
        elif inner and name == "disks":
            yield from fields(Disk, "disks.")
        else:
            yield prefix + name


def test_the_page_has_every_field_and_no_other() -> None:
    rows = ROW.findall(PAGE)
    assert len(rows) == len(set(rows))
    assert set(rows) - {"nics", "nics.forwards", "vsock"} == set(fields(MachineSpec))


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_are_right(text: str) -> None:
    assert parse_spec(text.encode(), Path("/specs")).name


def test_there_is_an_example_of_each_kind() -> None:
    kinds = {parse_spec(text.encode(), Path()).kind for text in EXAMPLES}
    assert kinds == set(Kind)


@pytest.mark.parametrize("table", SMBIOS_FIELDS)
def test_the_page_has_the_fields_of_smbios(table: str) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `smbios.{table}` |"))
    assert tuple(re.findall(r"`([a-z]+)`", row)) == SMBIOS_FIELDS[table]
