"""What an event's data says, field by field, so that two of them can be compared as a person would.

Sources: UEFI specification 2.11, section 32.4.1 (signature lists); TCG PC Client Platform Firmware Profile
1.06, section 10.2. All integers are little-endian.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

from tdxstack.abi import event_log
from tdxstack.abi.binary import Reader
from tdxstack.errors import MalformedError
from tdxstack.measurement.comparison.side import Entry, type_value
from tdxstack.measurement.device_path import device_path_text
from tdxstack.measurement.event_data import BootOption, UefiVariable
from tdxstack.measurement.text import printable

Values = dict[str, str]

SIGNATURE_VARIABLES = ("PK", "KEK", "db", "dbx", "dbt", "dbr", "MokListRT", "MokListXRT")
CERT_X509 = UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
CERT_SHA256 = UUID("c1c41626-504c-4092-aca9-41f936934328")
COMMON_NAME = bytes.fromhex("0603550403")
"""DER of the object identifier of commonName, 2.5.4.3."""


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
    read = _READERS.get(type_value(entry.type) or 0)
    if read is None or entry.data is None:
        return {}
    try:
        return read(entry.data)
    except MalformedError:
        return {}  # the data itself is shown by `meaning`


def signatures(data: bytes) -> Iterator[str]:
    """The entries of a chain of EFI_SIGNATURE_LISTs, each in words. Raises `MalformedError`."""
    reader = Reader(data, "signature list")
    while reader.remaining:
        kind = UUID(bytes_le=reader.take(16, "signature type"))
        size, header, each = reader.u32("list size"), reader.u32("header size"), reader.u32("signature size")
        if size < 28 + header or each <= 16:
            raise MalformedError(
                f"signature list: sizes {size}, {header} and {each}", hint="the log is damaged"
            )
        reader.take(header, "header")
        entries = Reader(reader.take(size - 28 - header, "signatures"), "signatures")
        while entries.remaining:
            owner = UUID(bytes_le=entries.take(16, "owner"))
            yield _signature(kind, owner, entries.take(each - 16, "signature"))


def _signature(kind: UUID, owner: UUID, data: bytes) -> str:
    if kind == CERT_X509:
        return f"certificate {_subject(data)} (SHA-256 {hashlib.sha256(data).hexdigest()}, owner {owner})"
    if kind == CERT_SHA256:
        return f"image hash {data.hex()} (owner {owner})"
    return f"entry of type {kind}: {data[:32].hex()} (owner {owner})"


def _subject(certificate: bytes) -> str:
    """The last common name before the key of a certificate: its subject's. For people only, not parsed."""
    parts = certificate.split(COMMON_NAME)
    text = parts[-1] if len(parts) < 3 else parts[2]
    length = text[1] if len(text) > 1 else 0
    return printable(text[2 : 2 + length].decode("utf-8", "replace")) if len(parts) > 1 else "without a name"


def _variable(data: bytes) -> Values:
    variable = UefiVariable.parse(data)
    found = {"variable": f"{printable(variable.name)} ({variable.vendor})"}
    if variable.name in SIGNATURE_VARIABLES:
        return found | dict.fromkeys(signatures(variable.data), "present")
    return found | {"value": variable.data.hex()}


def _authority(data: bytes) -> Values:
    variable = UefiVariable.parse(data)
    name = {"verified by": printable(variable.name)}
    if variable.name in SIGNATURE_VARIABLES and len(variable.data) > 16:
        owner = UUID(bytes_le=variable.data[:16])
        return name | {"authority": _signature(CERT_X509, owner, variable.data[16:])}
    return name | {"value": variable.data.hex()}


def _boot(data: bytes) -> Values:
    variable = UefiVariable.parse(data)
    if variable.name == "BootOrder":
        numbers = [variable.data[at : at + 2] for at in range(0, len(variable.data), 2)]
        return {"order": ", ".join(f"Boot{int.from_bytes(number, 'little'):04X}" for number in numbers)}
    option = BootOption.parse(variable.data)
    return {
        "option": printable(variable.name),
        "description": printable(option.description),
        "device path": device_path_text(option.device_path),
        "attributes": f"0x{option.attributes:x}",
        "optional data": option.optional_data.hex(),
    }


def _image(data: bytes) -> Values:
    reader = Reader(data, "image load event")
    reader.u64("location")
    size = reader.u64("length")
    reader.u64("link-time address")
    path = device_path_text(reader.take(reader.u64("device path length"), "device path"))
    return {"path": path, "size in memory": str(size)}


def _gpt(data: bytes) -> Values:
    reader = Reader(data, "GPT event")
    header = reader.take(92, "header")
    disk, entry_size = UUID(bytes_le=header[56:72]), int.from_bytes(header[84:88], "little")
    count = reader.u64("partitions")
    if entry_size < 128 or entry_size * count > reader.remaining:
        raise MalformedError(
            f"GPT event: {count} partitions of {entry_size} bytes", hint="the log is damaged"
        )
    found = {"disk": str(disk)}
    for number in range(count):
        entry = reader.take(entry_size, "partition")
        first, last = int.from_bytes(entry[32:40], "little"), int.from_bytes(entry[40:48], "little")
        name = printable(entry[56:128].decode("utf-16-le", "replace").partition("\0")[0])
        kind, unique = UUID(bytes_le=entry[:16]), UUID(bytes_le=entry[16:32])
        found[f"partition {number + 1}"] = (
            f"{name or 'unnamed'}, sectors {first} to {last}, {unique} of type {kind}"
        )
    return found


def _blob(data: bytes) -> Values:
    reader = Reader(data, "firmware blob")
    name = reader.take(reader.u8("description size"), "description").partition(b"\0")[0].decode("latin-1")
    return {
        "volume": printable(name),
        "address": f"0x{reader.u64('base'):x}",
        "size": f"0x{reader.u64('length'):x}",
    }


_READERS: dict[int, Callable[[bytes], Values]] = {
    event_log.EV_EFI_VARIABLE_DRIVER_CONFIG: _variable,
    event_log.EV_EFI_VARIABLE_AUTHORITY: _authority,
    event_log.EV_EFI_VARIABLE_BOOT: _boot,
    event_log.EV_EFI_VARIABLE_BOOT2: _boot,
    event_log.EV_EFI_BOOT_SERVICES_APPLICATION: _image,
    event_log.EV_EFI_BOOT_SERVICES_DRIVER: _image,
    event_log.EV_EFI_GPT_EVENT: _gpt,
    event_log.EV_EFI_PLATFORM_FIRMWARE_BLOB2: _blob,
}
