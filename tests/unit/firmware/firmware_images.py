"""Small firmware images with volumes, files and variables, packed by struct, independently of the code."""

from __future__ import annotations

import lzma
import struct
from uuid import UUID

from tests.unit.abi import tdvf_images

FFS2 = "8c8ce578-8a3d-4f1c-9935-896185c32dd3"
NV_DATA = "fff12b8d-7696-4c8b-a985-2747075b4f50"
LZMA = "ee4e5898-3914-4259-9d6e-dc7bd79403cf"
DXE_VOLUME = "7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1"

BDS = "6d33944a-ec75-4855-a54d-809c75241f6c"
MENU = "eec25bdc-67f2-4d95-b1d5-f81b2039d11d"
UI_APP = "462caa21-7614-4503-836e-8ab6f4662331"
SMBIOS_PLATFORM = "4110465d-5ff3-4f4b-b580-24ed0d06747a"
SMBIOS_MEASUREMENT = "d27fed59-abb4-4fed-bead-2a878c7e4a7e"
SECURE_BOOT_CONFIG = "f0e6a44f-7195-41c3-ac64-54f202cd0a21"
TD_MEASUREMENT = "f062221e-c607-44c2-b0b4-c3886331d351"
FAT = "961578fe-b6b7-44c3-af35-6bc705cd2b1f"
ACPI_PLATFORM = "17985e6f-e778-4d94-aefa-c5dd2b77e186"

GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
SWITCH = "f0a30bc7-af08-4556-99c4-001009c93a44"

CFV_SIZE, BFV_SIZE = 0x2000, 0x6000
SIZE = CFV_SIZE + BFV_SIZE


def wide(text: str) -> bytes:
    return text.encode("utf-16-le") + b"\0\0"


def section(kind: int, content: bytes) -> bytes:
    return struct.pack("<I", (4 + len(content)) | kind << 24) + content


def packed(content: bytes) -> bytes:
    """A GUID-defined section that is compressed."""
    data = lzma.compress(content, lzma.FORMAT_ALONE)
    return section(0x02, UUID(LZMA).bytes_le + struct.pack("<HH", 24, 1) + data)


def file(guid: str, *, label: str | None = None, code: bytes = b"code", kind: int = 0x07) -> bytes:
    body = section(0x10, code)
    if label is not None:
        body += bytes(-len(body) % 4) + section(0x15, wide(label))
    return raw_file(guid, body, kind)


def raw_file(guid: str, body: bytes, kind: int) -> bytes:
    size = 24 + len(body)
    header = UUID(guid).bytes_le + struct.pack("<HBB", 0, kind, 0) + struct.pack("<I", size | 0xF8 << 24)
    return header + body + b"\xff" * (-size % 8)


def volume(
    files: list[bytes], *, name: str | None = None, filesystem: str = FFS2, size: int | None = None
) -> bytes:
    content = b"".join(files)
    start = 72 if name is None else 96
    length = start + len(content) if size is None else size
    header = bytes(16) + UUID(filesystem).bytes_le + struct.pack("<Q4sI", length, b"_FVH", 0)
    header += struct.pack("<HHHBB", 72, 0, 0 if name is None else 72, 0, 2) + struct.pack(
        "<IIII", 1, length, 0, 0
    )
    if name is not None:
        header += UUID(name).bytes_le + struct.pack("<I", 20) + b"\xff" * 4
    return (header + content).ljust(length, b"\xff")


def variable(name: str, data: bytes, *, vendor: str = GLOBAL, state: int = 0x3F) -> bytes:
    wide_name = wide(name)
    head = struct.pack("<HBBIQ16sIII", 0x55AA, state, 0, 7, 0, bytes(16), 0, len(wide_name), len(data))
    entry = head + UUID(vendor).bytes_le + wide_name + data
    return entry + b"\xff" * (-len(entry) % 4)


def store(variables: list[bytes]) -> bytes:
    content = b"".join(variables)
    size = CFV_SIZE - 72
    head = UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le + struct.pack(
        "<IBBHI", size, 0x5A, 0xFE, 0, 0
    )
    return volume([(head + content).ljust(size, b"\xff")], filesystem=NV_DATA, size=CFV_SIZE)


def release_strings(version: str = "2026.08+ds-2") -> bytes:
    texts = ("unknown", "02/02/2022", "09/26/2026", version, "Example EDK II")
    return b"\x90" + b"".join(wide(text) + bytes(8) for text in texts)


def dxe_files(version: str = "2026.08+ds-2") -> list[bytes]:
    """What a current IntelTdxX64 shows, with UiApp left out of the volume that a TD has."""
    bds = b"opt/org.tianocore/FirmwareSetupSupport\0initrd=initrd \0"
    return [
        file(BDS, label="BdsDxe", code=bds),
        file(MENU, label="BootManagerMenuApp", kind=0x09),
        file(SMBIOS_PLATFORM, label="SmbiosPlatformDxe", code=release_strings(version)),
        file(SMBIOS_MEASUREMENT, label="SmbiosMeasurementDxe"),
        file(SECURE_BOOT_CONFIG, label="SecureBootConfigDxe"),
        file(TD_MEASUREMENT, label="TdTcg2Dxe"),
        file(FAT, label="Fat", code=UUID("8be0e274-3970-4b44-80c5-1ab9502f3bfc").bytes_le),
        file(ACPI_PLATFORM, label="QemuFwCfgAcpiPlatform", code=b"ACPI DATA\0"),
    ]


def firmware(
    files: list[bytes] | None = None, variables: list[bytes] | None = None, *, metadata: bool = True
) -> bytes:
    """A whole image: variables, then a volume with a packed volume, then the TDX metadata."""
    inner = volume(dxe_files() if files is None else files, name=DXE_VOLUME)
    wrapped = packed(section(0x17, inner))
    outer = volume([raw_file("9e21fd93-9c72-4c15-8c4b-e77f1db2d792", wrapped, 0x0B)])
    image = store(variables or []) + outer.ljust(BFV_SIZE, b"\xff")
    tail = tdvf_images.image(tdvf_images.descriptor(), size=SIZE)
    if metadata:
        image = image[: SIZE - 0x400] + tail[SIZE - 0x400 :]
    assert len(image) == SIZE
    return image
