"""What an event's data says, field by field, so that two of them can be compared as a person would."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from tdxstack.abi.event_log import Event
from tdxstack.errors import MalformedError
from tdxstack.measurement.comparison.side import Entry, type_value
from tdxstack.measurement.decode import Authority, BootVariable, decode
from tdxstack.measurement.describe import KEY_VARIABLES
from tdxstack.measurement.device_path import device_path_text
from tdxstack.measurement.event_data import FirmwareBlob, GptTable, ImageLoad, UefiVariable
from tdxstack.measurement.signature_list import OWNER_SIZE, X509, parse_signature_lists, subject_name
from tdxstack.measurement.text import printable

Values = dict[str, str]

PRESENT = "present"
"""The value of a field that is either there or not, such as an entry of db."""


@dataclass(frozen=True, slots=True)
class ValueChange:
    """One field of an event in the one log and in the other; None where it has none."""

    name: str
    a: str | None
    b: str | None

    def to_json(self) -> dict[str, str | None]:
        """name, a, b."""
        return {"name": self.name, "a": self.a, "b": self.b}


def changed_values(a: Entry, b: Entry) -> tuple[ValueChange, ...]:
    """The fields in which two events differ. Empty where the data of one is missing or says the same."""
    of_a, of_b = values(a), values(b)
    names = [*of_a, *(name for name in of_b if name not in of_a)]
    return tuple(
        ValueChange(name, of_a.get(name), of_b.get(name))
        for name in names
        if of_a and of_b and of_a.get(name) != of_b.get(name)
    )


def values(entry: Entry) -> Values:
    """The fields of an event by name. Data of an unexpected form, or none, has no fields."""
    if entry.text is not None:
        return {"text": printable(entry.text)}
    kind = type_value(entry.type)
    if kind is None or entry.data is None:
        return {}
    try:
        return _fields(Event(0, kind, (), entry.data))
    except MalformedError:
        return {}  # a part has an unknown layout: `meaning` shows the data itself


def _fields(event: Event) -> Values:
    match decode(event):
        case BootVariable() as found:
            return _boot(found)
        case Authority(variable):
            return _authority(variable)
        case UefiVariable() as found:
            return _variable(found)
        case ImageLoad() as found:
            return {"path": device_path_text(found.device_path), "size in memory": str(found.length)}
        case GptTable() as found:
            return _partitions(found)
        case FirmwareBlob() as found:
            name = {"volume": printable(found.name.decode("latin-1").rstrip("\0"))} if found.name else {}
            return name | {"address": f"0x{found.base:x}", "size": f"0x{found.length:x}"}
        case _:
            return {}


def _variable(variable: UefiVariable) -> Values:
    found = {"variable": f"{printable(variable.name)} ({variable.vendor})"}
    if variable.name in KEY_VARIABLES:
        return found | dict.fromkeys(_signatures(variable.data), PRESENT)
    return found | {"value": _value(variable.data)}


def _signatures(data: bytes) -> Iterator[str]:
    """The entries of signature lists, each in words that no other entry has."""
    for one in parse_signature_lists(data):
        for owner, signature in one.signatures:
            what = _certificate(signature) if one.type == X509 else f"{one.type_name} {signature.hex()}"
            yield f"{what}, owner {owner}"


def _certificate(certificate: bytes) -> str:
    name = printable(subject_name(certificate)) or "without a name"
    return f"certificate {name}, SHA-256 {hashlib.sha256(certificate).hexdigest()}"


def _authority(variable: UefiVariable) -> Values:
    name = {"verified by": printable(variable.name)}
    if variable.name in KEY_VARIABLES and len(variable.data) > OWNER_SIZE:
        return name | {"authority": _certificate(variable.data[OWNER_SIZE:])}
    return name | {"value": _value(variable.data)}


def _value(data: bytes) -> str:
    """Text where it is that, such as SBAT levels, in one line; else hexadecimal digits."""
    text = data.rstrip(b"\n\0").decode("latin-1").replace("\n", "; ")
    return text if text and text.isascii() and text.isprintable() else data.hex()


def _boot(found: BootVariable) -> Values:
    if found.option is None:
        return {"order": ", ".join(f"Boot{number:04X}" for number in found.order)}
    return {
        "option": printable(found.variable.name),
        "description": printable(found.option.description),
        "device path": device_path_text(found.option.device_path),
        "attributes": f"0x{found.option.attributes:x}",
        "optional data": found.option.optional_data.hex(),
    }


def _partitions(table: GptTable) -> Values:
    found = {"disk": str(table.disk)}
    for number, partition in enumerate(table.partitions, 1):
        first, last = partition.blocks
        name = printable(partition.name) or "unnamed"
        found[f"partition {number}"] = f"{name}, blocks {first} to {last}, {partition.guid}"
    return found
