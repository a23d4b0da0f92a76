"""What firmware logs about devices that it measures or authenticates over SPDM. Integers are little-endian.

Sources: TCG PC Client Platform Firmware Profile 1.06, section 10.2.7 (DEVICE_SECURITY_EVENT_DATA and DATA2);
edk2 `MdePkg/Include/IndustryStandard/UefiTcgPlatform.h`; DMTF DSP0274 for measurement blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from tdxstack.abi.binary import Reader
from tdxstack.errors import MalformedError

SIGNATURE_1 = b"SPDM Device Sec\0"
SIGNATURE_2 = b"SPDM Device Sec2"

AUTHENTICATION_STATES = {
    0: "authenticated",
    1: "cannot authenticate",
    2: "certificate not bound to a trusted root",
    3: "did not sign",
    4: "signature invalid",
    0xFF: "no SPDM",
}
SUB_HEADER_MEASUREMENTS, SUB_HEADER_CERTIFICATES = 0, 1
DEVICE_PCI, DEVICE_USB = 1, 2
DAMAGED = "the event log is damaged"


@dataclass(frozen=True, slots=True)
class DeviceSecurity:
    """DEVICE_SECURITY_EVENT_DATA (version 1) and DATA2 (version 2).

    | size | version 1             | size | version 2                                     |
    |------|-----------------------|------|-----------------------------------------------|
    | 16   | "SPDM Device Sec\\0"   | 16   | "SPDM Device Sec2"                            |
    | 2    | version, 1            | 2    | version, 2                                    |
    | 2    | length of all         | 1    | authentication state                          |
    | 4    | SPDM hash algorithm   | 1    | reserved                                      |
    | 4    | device type           | 4    | length of all                                 |
    | n    | measurement block     | 4    | device type                                   |
    | 8    | device path length    | 4    | sub-header type: 0 measurements, 1 chain      |
    | n    | device path           | 4    | sub-header length                             |
    | n    | device context        | 8    | sub-header UID                                |
    |      |                       | 8, n | device path length, device path               |
    |      |                       | n    | sub-header, with measurement blocks or chain  |
    |      |                       | n    | device context                                |

    `authentication` and `sub_header_type` are None in version 1, `sub_header` is its measurement block.
    """

    version: int
    authentication: int | None
    device_type: int
    sub_header_type: int | None
    sub_header: bytes
    device_path: bytes
    context: bytes

    @classmethod
    def parse(cls, data: bytes) -> DeviceSecurity:
        """Read the data of an EV_EFI_SPDM_* event. Raises `MalformedError`."""
        reader = Reader(data, "device security event")
        signature, version = reader.take(16, "signature"), reader.u16("version")
        if signature == SIGNATURE_1:
            return cls._version_1(reader, version)
        if signature != SIGNATURE_2:
            raise MalformedError(f"device security event: signature {signature!r} at offset 0", hint=DAMAGED)
        state, _ = reader.u8("authentication state"), reader.u8("reserved")
        _, device_type = reader.u32("length"), reader.u32("device type")
        kind, size, _ = reader.u32("sub-header type"), reader.u32("sub-header length"), reader.u64("UID")
        path = reader.take(reader.u64("device path length"), "device path")
        return cls(version, state, device_type, kind, reader.take(size, "sub-header"), path, reader.rest())

    @classmethod
    def _version_1(cls, reader: Reader, version: int) -> DeviceSecurity:
        reader.view(6, "length and hash algorithm")
        device_type = reader.u32("device type")
        head = reader.take(4, "measurement block")
        block = head + reader.take(int.from_bytes(head[2:], "little"), "measurement")
        path = reader.take(reader.u64("device path length"), "device path")
        return cls(version, None, device_type, None, block, path, reader.rest())

    @property
    def measurement_indices(self) -> tuple[int, ...]:
        """The indices of the measurement blocks. Raises `MalformedError` if one is cut short."""
        reader = Reader(self.sub_header, "SPDM measurement blocks")
        count = 1
        if self.sub_header_type is not None:
            count = reader.take(8, "sub-header")[2]
        indices = []
        for _ in range(count):
            indices.append(reader.u8("index"))
            reader.view(1, "measurement specification")
            reader.view(reader.u16("measurement size"), "measurement")
        return tuple(indices)

    @property
    def pci(self) -> tuple[int, int] | None:
        """Vendor and device id of a PCI device, if its context is here."""
        if self.device_type != DEVICE_PCI or len(self.context) < 8:
            return None
        return int.from_bytes(self.context[4:6], "little"), int.from_bytes(self.context[6:8], "little")
