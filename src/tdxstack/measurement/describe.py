"""Events in words, for people who read a log. Nothing here decides anything: the data may lie.

Sources: TCG PC Client Platform Firmware Profile 1.06, chapter 10; edk2 OvmfPkg and SecurityPkg;
Linux drivers/firmware/efi/libstub; GRUB; shim; td-shim.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from tdxstack.abi import event_log
from tdxstack.abi.binary import Reader
from tdxstack.abi.event_log import Event
from tdxstack.errors import MalformedError
from tdxstack.measurement.device_path import device_path_text
from tdxstack.measurement.event_data import BootOption, UefiVariable
from tdxstack.measurement.text import printable

DAMAGED = "the event log is damaged"

TDX_TABLE = "TdxTable"
FW_CFG_PREFIX = b"QEMU FW CFG\0"
TD_SHIM_NAME_SIZE = 16
GPT_HEADER_SIZE = 92
GPT_NAME_OFFSET, GPT_NAME_SIZE = 56, 72
GPT_MAX_SHOWN = 128
SEPARATORS = {b"\0\0\0\0": "end of the pre-boot phase", b"\xff\xff\xff\xff": "end of the pre-boot phase"}

LINUX_EFI_TAGS = {
    0x8F3B22EC: "initrd loaded by Linux's EFI stub",
    0x8F3B22ED: "kernel command line, as Linux's EFI stub got it",
}


def describe(event: Event) -> str:
    """One line about an event. Data of an unexpected form is shown as text or hexadecimal digits."""
    words = DESCRIPTIONS.get(event.type)
    if words is not None:
        try:
            return words(event.data)
        except MalformedError:
            pass  # an unknown layout is no fault of the log: show the data itself
    return _plain(event.data)


def _plain(data: bytes) -> str:
    text = data.rstrip(b"\0")
    if text and all(0x20 <= byte < 0x7F or byte in b"\t\n" for byte in text):
        return printable(text.decode("ascii"))
    if not data:
        return "no data"
    return data[:32].hex() + (f"... ({len(data)} bytes)" if len(data) > 32 else "")


def _c_string(data: bytes) -> str:
    """Text up to the first zero."""
    return printable(data.partition(b"\0")[0].decode("latin-1"))


def _separator(data: bytes) -> str:
    return SEPARATORS.get(data) or f"error separator {data[:16].hex()}"


def _variable(data: bytes) -> str:
    variable = UefiVariable.parse(data)
    value = variable.data
    if variable.name == "SecureBoot":
        shown = {b"": "not supported", b"\0": "off", b"\1": "on"}.get(value, value[:16].hex())
    elif variable.name in ("SbatLevel", "SbatLevelRT"):
        shown = printable(value.decode("latin-1").strip("\n").replace("\n", "; "))
    else:
        shown = f"{len(value)} bytes" if value else "empty"
    return f"variable {printable(variable.name)}: {shown}"


def _authority(data: bytes) -> str:
    return f"an image was verified by {_variable(data)}"


def _boot_variable(data: bytes) -> str:
    variable = UefiVariable.parse(data)
    if variable.name == "BootOrder":
        entries = [variable.data[at : at + 2] for at in range(0, len(variable.data), 2)]
        return "boot order " + ", ".join(f"{int.from_bytes(entry, 'little'):04X}" for entry in entries)
    option = BootOption.parse(variable.data)
    path = device_path_text(option.device_path)
    return f"boot option {printable(variable.name)}: {printable(option.description)}, {path}"


def _image(data: bytes) -> str:
    reader = Reader(data, "image load event")
    reader.u64("location")
    size = reader.u64("length")
    reader.u64("link-time address")
    path = device_path_text(reader.take(reader.u64("device path length"), "device path"))
    return f"PE image {path or 'without a path'}, {size} bytes in memory"


def _gpt(data: bytes) -> str:
    reader = Reader(data, "GPT event")
    header = Reader(reader.take(GPT_HEADER_SIZE, "header"), "GPT header")
    header.take(56, "header")
    disk = UUID(bytes_le=header.take(16, "disk GUID"))
    header.take(12, "partition array")
    entry_size = header.u32("entry size")
    count = reader.u64("partitions")
    if entry_size < GPT_NAME_OFFSET + GPT_NAME_SIZE or entry_size * count > reader.remaining:
        raise MalformedError(f"GPT event: {count} partitions of {entry_size} bytes", hint=DAMAGED)
    entries = [reader.take(entry_size, "partition") for _ in range(min(count, GPT_MAX_SHOWN))]
    names = [entry[GPT_NAME_OFFSET:][:GPT_NAME_SIZE].decode("utf-16-le", "replace") for entry in entries]
    shown = ", ".join(printable(name.partition("\0")[0]) or "unnamed" for name in names)
    return f"partition table of disk {disk}, {count} partitions: {shown}"


def _firmware_blob2(data: bytes) -> str:
    reader = Reader(data, "firmware blob")
    name = _c_string(reader.take(reader.u8("description size"), "description"))
    base, size = reader.u64("base"), reader.u64("length")
    what = "firmware configuration volume" if name.startswith("Fv(") else "firmware blob"
    return f"{what} {name} at 0x{base:x}, 0x{size:x} bytes"


def _tables2(data: bytes) -> str:
    reader = Reader(data, "hand-off tables")
    name = _c_string(reader.take(reader.u8("description size"), "description"))
    if name == TDX_TABLE:
        return "TD HOB, the memory that the VMM gives to the TD"
    return f"hand-off table {name}"


def _tables(data: bytes) -> str:
    reader = Reader(data, "hand-off tables")
    count = reader.u64("number of tables")
    if count * 24 > reader.remaining:
        raise MalformedError(f"hand-off tables: {count} tables", hint=DAMAGED)
    guids = [UUID(bytes_le=reader.take(24, "table")[:16]) for _ in range(count)]
    return "hand-off tables " + ", ".join(TABLE_NAMES.get(guid, str(guid)) for guid in guids)


TABLE_NAMES = {
    UUID("eb9d2d31-2d88-11d3-9a16-0090273fc14d"): "SMBIOS",
    UUID("f2fd1544-9794-4a2c-992e-e5bbcf20e394"): "SMBIOS 3",
}


def _config(data: bytes) -> str:
    if data == b"ACPI DATA":
        return "ACPI tables from the VMM (fw_cfg)"
    if data.startswith(FW_CFG_PREFIX):
        return f"fw_cfg {_c_string(data[len(FW_CFG_PREFIX) :])} from the VMM"
    if data.startswith((b"td_hob\0", b"td_payload_info\0")):
        return f"td-shim {_c_string(data[:TD_SHIM_NAME_SIZE])}, {len(data)} bytes"
    return _utf16(data)


def _utf16(data: bytes) -> str:
    """UTF-16 text where it is plainly that (old TDVF, systemd-stub), else as `_plain`."""
    if len(data) >= 4 and len(data) % 2 == 0 and data[0] and not any(data[1::2]):
        return printable(data.decode("utf-16-le").rstrip("\0"))
    return _plain(data)


def _ipl(data: bytes) -> str:
    text = _utf16(data)
    if text.startswith("grub_cmd: "):
        return "GRUB command: " + text.removeprefix("grub_cmd: ")
    if text.startswith("kernel_cmdline: "):
        return "GRUB kernel command line: " + text.removeprefix("kernel_cmdline: ")
    if text.startswith("MokList"):
        return f"shim's {text}"
    return f"boot loader: {text}"


def _tag(data: bytes) -> str:
    reader = Reader(data, "tagged event")
    tag, body = reader.u32("tag"), reader.take(reader.u32("size"), "data")
    words = LINUX_EFI_TAGS.get(tag, f"tag 0x{tag:08x}")
    return f"{words}: {_plain(body)}" if tag not in LINUX_EFI_TAGS else words


DESCRIPTIONS: dict[int, Callable[[bytes], str]] = {
    event_log.EV_SEPARATOR: _separator,
    event_log.EV_EVENT_TAG: _tag,
    event_log.EV_S_CRTM_VERSION: _utf16,
    event_log.EV_PLATFORM_CONFIG_FLAGS: _config,
    event_log.EV_IPL: _ipl,
    event_log.EV_EFI_VARIABLE_DRIVER_CONFIG: _variable,
    event_log.EV_EFI_VARIABLE_BOOT: _boot_variable,
    event_log.EV_EFI_VARIABLE_BOOT2: _boot_variable,
    event_log.EV_EFI_VARIABLE_AUTHORITY: _authority,
    event_log.EV_EFI_BOOT_SERVICES_APPLICATION: _image,
    event_log.EV_EFI_BOOT_SERVICES_DRIVER: _image,
    event_log.EV_EFI_RUNTIME_SERVICES_DRIVER: _image,
    event_log.EV_EFI_GPT_EVENT: _gpt,
    event_log.EV_EFI_PLATFORM_FIRMWARE_BLOB2: _firmware_blob2,
    event_log.EV_EFI_HANDOFF_TABLES: _tables,
    event_log.EV_EFI_HANDOFF_TABLES2: _tables2,
}
