"""The structures inside event data that more than one reader needs. All integers are little-endian.

Sources: TCG PC Client Platform Firmware Profile 1.06, section 10.2; UEFI specification 2.11.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from tdxstack.abi.binary import Reader
from tdxstack.errors import MalformedError


@dataclass(frozen=True, slots=True)
class UefiVariable:
    """UEFI_VARIABLE_DATA.

    | size | field                                        |
    |------|----------------------------------------------|
    | 16   | vendor GUID                                  |
    | 8    | length of the name in 16-bit units           |
    | 8    | length of the value in bytes                 |
    | n    | name, UTF-16, without a zero                 |
    | n    | value                                        |
    """

    vendor: UUID
    name: str
    data: bytes

    @classmethod
    def parse(cls, data: bytes) -> UefiVariable:
        """Read the data of an EV_EFI_VARIABLE_* event. Raises `MalformedError`."""
        reader = Reader(data, "UEFI variable")
        vendor = UUID(bytes_le=reader.take(16, "vendor GUID"))
        name_length, size = reader.u64("name length"), reader.u64("value length")
        name = reader.take(2 * name_length, "name").decode("utf-16-le", "surrogatepass")
        value = reader.take(size, "value")
        reader.end()
        return cls(vendor, name, value)

    def to_bytes(self) -> bytes:
        """The structure as it is logged."""
        name = self.name.encode("utf-16-le", "surrogatepass")
        return b"".join(
            (
                self.vendor.bytes_le,
                (len(name) // 2).to_bytes(8, "little"),
                len(self.data).to_bytes(8, "little"),
                name,
                self.data,
            )
        )


@dataclass(frozen=True, slots=True)
class BootOption:
    """EFI_LOAD_OPTION, the value of a Boot#### variable.

    | size | field                                        |
    |------|----------------------------------------------|
    | 4    | attributes: bit 0 active, bits 8-12 category |
    | 2    | length of the device path in bytes           |
    | n    | description, UTF-16 with a zero at its end   |
    | n    | device path                                  |
    | n    | optional data, to the end                    |
    """

    attributes: int
    description: str
    device_path: bytes
    optional_data: bytes

    @classmethod
    def parse(cls, data: bytes) -> BootOption:
        """Read a Boot#### variable's value. Raises `MalformedError`."""
        reader = Reader(data, "boot option")
        attributes, path_length = reader.u32("attributes"), reader.u16("device path length")
        end = _utf16_zero(reader.peek(reader.remaining))
        description = reader.take(end, "description").decode("utf-16-le", "surrogatepass")
        reader.take(2, "end of description")
        return cls(attributes, description, reader.take(path_length, "device path"), reader.rest())

    def to_bytes(self) -> bytes:
        """The value of the variable."""
        return b"".join(
            (
                self.attributes.to_bytes(4, "little"),
                len(self.device_path).to_bytes(2, "little"),
                self.description.encode("utf-16-le", "surrogatepass"),
                b"\0\0",
                self.device_path,
                self.optional_data,
            )
        )


def _utf16_zero(data: bytes) -> int:
    """Offset of the first 16-bit zero at an even offset."""
    at = data.find(b"\0\0")
    while at >= 0 and at % 2:
        at = data.find(b"\0\0", at + 1)
    if at < 0:
        raise MalformedError("boot option: its description has no end", hint="the event log is damaged")
    return at
