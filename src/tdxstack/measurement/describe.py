"""Events in words, for people who read a log. Nothing here decides anything: the data may lie.

Sources: TCG PC Client Platform Firmware Profile 1.06, chapter 10; edk2 OvmfPkg and SecurityPkg;
Linux drivers/firmware/efi/libstub; GRUB; shim; systemd `src/fundamental/tpm2-pcr.h`; td-shim.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from tdxstack.abi import aael, event_log
from tdxstack.abi.event_log import Event
from tdxstack.errors import MalformedError
from tdxstack.measurement.decode import Authority, BootVariable, decode
from tdxstack.measurement.device_path import device_path_text
from tdxstack.measurement.device_security import (
    AUTHENTICATION_STATES,
    DEVICE_USB,
    SUB_HEADER_CERTIFICATES,
    DeviceSecurity,
)
from tdxstack.measurement.event_data import (
    FirmwareBlob,
    GptTable,
    HandoffTables,
    ImageLoad,
    TaggedEvent,
    UefiVariable,
)
from tdxstack.measurement.signature_list import X509, parse_signature_lists, subject_name
from tdxstack.measurement.text import printable

MAX_SHOWN = 4096
"""Bytes of text, and characters of it, that one description shows."""

TDX_TABLE = "TdxTable"
FW_CFG_PREFIX = b"QEMU FW CFG\0"
TD_SHIM_NAME_SIZE = 16
MAX_NAMES = 128

SEPARATORS = {b"\0\0\0\0": "end of the pre-boot phase", b"\xff\xff\xff\xff": "end of the pre-boot phase"}
WINDOWS_SEPARATOR = b"WBCL"

KEY_VARIABLES = ("PK", "KEK", "db", "dbx", "dbt", "dbr", "MokList", "MokListX")
MOK_VARIABLES = {
    "MokListRT": "machine owner keys",
    "MokListX": "hashes that the machine's owner forbids",
    "MokListTrusted": "whether machine owner keys are trusted by the kernel",
    "MokListXRT": "hashes that the machine's owner forbids",
    "MokList": "machine owner keys",
    "MokSBState": "whether shim verifies images",
    "MokDBState": "whether shim uses db",
}

TAGS = {
    0x8F3B22EC: "initrd loaded by Linux's EFI stub",
    0x8F3B22ED: "kernel command line, as Linux's EFI stub got it",
    0xF5BC582A: "systemd-boot's loader.conf",
    0x6C46F751: "device tree of a systemd-stub addon",
    0x49DFFE0F: "initrd of a systemd-stub addon",
    0xDAC08E1A: "microcode of a systemd-stub addon",
    0x13AED6DB: "profile of the unified kernel image",
    0x40010001: "Windows boot record",
    0x00060002: "Windows boot record of a key",
}
OPAQUE_TAGS = {0x8F3B22EC, 0x8F3B22ED}
"""Tags whose data is the same words in every log."""

TABLE_NAMES = {
    UUID("eb9d2d31-2d88-11d3-9a16-0090273fc14d"): "SMBIOS",
    UUID("f2fd1544-9794-4a2c-992e-e5bbcf20e394"): "SMBIOS 3",
    UUID("eb9d2d30-2d88-11d3-9a16-0090273fc14d"): "ACPI",
    UUID("8868e871-e4f1-11d3-bc22-0080c73c8881"): "ACPI 2",
}

GCE_TECHNOLOGIES = {0: "none", 1: "AMD SEV", 2: "AMD SEV-ES", 3: "Intel TDX", 4: "AMD SEV-SNP"}


def describe(event: Event) -> str:
    """One line about an event. Data of an unexpected form is shown as text or hexadecimal digits."""
    words = TEXTS.get(event.type)
    if words is not None:
        return words(event.data)
    said = _structure(event)
    return _plain(event.data) if said is None else said


def _structure(event: Event) -> str | None:
    """The line about data that has a structure, None where it has not the one of its type."""
    try:
        match decode(event):
            case BootVariable() as found:
                return _boot_variable(found)
            case Authority(variable):
                return f"an image was verified by {_authority(variable)}"
            case UefiVariable() as found:
                return _variable(found)
            case ImageLoad() as found:
                path = device_path_text(found.device_path) or "without a path"
                return f"PE image {path}, {found.length} bytes in memory"
            case GptTable() as found:
                return _gpt(found)
            case FirmwareBlob() as found:
                return _blob(found)
            case HandoffTables() as found:
                return _tables(found)
            case TaggedEvent() as found:
                return _tag(found)
            case DeviceSecurity() as found:
                return _device(found)
    except MalformedError:
        return None  # a part has an unknown layout: the data itself is shown
    return None


def _plain(data: bytes) -> str:
    text = data[: MAX_SHOWN + 1].rstrip(b"\0")
    if text and all(0x20 <= byte < 0x7F or byte in b"\t\n" for byte in text):
        return printable(text.decode("ascii"), MAX_SHOWN)
    if not data:
        return "no data"
    return data[:32].hex() + (f"... ({len(data)} bytes)" if len(data) > 32 else "")


def _c_string(data: bytes) -> str:
    """Text up to the first zero."""
    return printable(data[:MAX_SHOWN].partition(b"\0")[0].decode("latin-1"))


def _utf16(data: bytes) -> str:
    """UTF-16 text where it is plainly that (old TDVF, systemd-stub), else as `_plain`."""
    head = data[:MAX_SHOWN]
    if len(data) >= 4 and len(data) % 2 == 0 and head[0] and not any(head[1::2]):
        return printable(head.decode("utf-16-le").rstrip("\0"))
    return _plain(data)


def _separator(data: bytes) -> str:
    if data == WINDOWS_SEPARATOR:
        return "end of what firmware measures, start of Windows's log"
    return SEPARATORS.get(data) or f"error separator {data[:16].hex()}"


def _no_action(data: bytes) -> str:
    if data.startswith(b"StartupLocality\0") and len(data) == 17:
        return f"TPM was started in locality {data[16]}"
    for name in (b"SP800-155 Event", b"Sp800-155 Event2", b"NvIndexInstance", b"NvIndexDynamic"):
        if data.startswith(name):
            return f"{name.decode()}, {len(data)} bytes"
    return _plain(data)


def _variable(variable: UefiVariable) -> str:
    value = variable.data
    if variable.name == "SecureBoot":
        shown = {b"": "not supported", b"\0": "off", b"\1": "on"}.get(value, value[:16].hex())
    elif variable.name in KEY_VARIABLES:
        shown = _keys(value)
    elif variable.name in ("SbatLevel", "SbatLevelRT"):
        shown = printable(value[:MAX_SHOWN].decode("latin-1").strip("\n\0").replace("\n", "; "))
    else:
        shown = f"{len(value)} bytes" if value else "empty"
    return f"variable {printable(variable.name)}: {shown}"


def _keys(value: bytes) -> str:
    """What the signature lists in a variable hold: certificates by name, the rest by count."""
    if not value:
        return "empty"
    try:
        lists = parse_signature_lists(value)
    except MalformedError:
        return f"{len(value)} bytes"
    names = [
        printable(subject_name(signature)) or "a certificate"
        for found in lists
        if found.type == X509
        for _, signature in found.signatures[:MAX_NAMES]
    ]
    counts: dict[str, int] = {}
    for found in lists:
        if found.type != X509:
            counts[found.type_name] = counts.get(found.type_name, 0) + len(found.signatures)
    others = [f"{count} {name}" for name, count in counts.items()]
    return ", ".join((*names[:MAX_NAMES], *others)) or "empty"


def _authority(variable: UefiVariable) -> str:
    """One EFI_SIGNATURE_DATA of db and the like; shim's own names are shown as other variables are."""
    if variable.name in KEY_VARIABLES or variable.name in ("Shim", "vendor_db", "MokListRT"):
        name = subject_name(variable.data[16:]) or subject_name(variable.data)
        if name:
            return f"{printable(variable.name)}: {printable(name)}"
    if variable.name in MOK_VARIABLES:
        return f"{variable.name}, {MOK_VARIABLES[variable.name]}: {len(variable.data)} bytes"
    if variable.name in KEY_VARIABLES:
        return f"variable {variable.name}: {len(variable.data)} bytes"
    return _variable(variable)


def _boot_variable(found: BootVariable) -> str:
    if found.option is None:
        return "boot order " + ", ".join(f"{number:04X}" for number in found.order[:MAX_NAMES])
    path = device_path_text(found.option.device_path)
    return f"boot option {printable(found.variable.name)}: {printable(found.option.description)}, {path}"


def _gpt(table: GptTable) -> str:
    shown = ", ".join(printable(partition.name) or "unnamed" for partition in table.partitions[:MAX_NAMES])
    return f"partition table of disk {table.disk}, {len(table.partitions)} partitions: {shown}"


def _blob(blob: FirmwareBlob) -> str:
    name = _c_string(blob.name or b"")
    what = "firmware configuration volume" if name.startswith("Fv(") else "firmware blob"
    return f"{what} {name + ' ' if name else ''}at 0x{blob.base:x}, 0x{blob.length:x} bytes"


def _tables(tables: HandoffTables) -> str:
    name = None if tables.name is None else _c_string(tables.name)
    if name == TDX_TABLE:
        return "TD HOB, the memory that the VMM gives to the TD"
    if name is not None:
        return f"hand-off table {name}"
    return "hand-off tables " + ", ".join(
        TABLE_NAMES.get(guid, str(guid)) for guid, _ in tables.tables[:MAX_NAMES]
    )


def _tag(tagged: TaggedEvent) -> str:
    if tagged.tag == aael.TAG:
        return f"attestation agent: {printable(tagged.data[:MAX_SHOWN].decode('utf-8', 'replace'))}"
    words = TAGS.get(tagged.tag, f"tag 0x{tagged.tag:08x}")
    return words if tagged.tag in OPAQUE_TAGS else f"{words}: {_utf16(tagged.data)}"


def _device(device: DeviceSecurity) -> str:
    path = device_path_text(device.device_path) or "without a path"
    kind = "USB device" if device.device_type == DEVICE_USB else "device"
    if device.pci:
        kind = f"PCI device {device.pci[0]:04x}:{device.pci[1]:04x}"
    words = [f"SPDM {kind} {path}"]
    if device.authentication is not None:
        words.append(AUTHENTICATION_STATES.get(device.authentication, f"state {device.authentication}"))
    if device.sub_header_type == SUB_HEADER_CERTIFICATES:
        words.append("certificate chain")
    else:
        indices = ", ".join(map(str, device.measurement_indices))
        words.append(f"measurements {indices}" if indices else "no measurements")
    return ", ".join(words)


def _config(data: bytes) -> str:
    if data == b"ACPI DATA":
        return "ACPI tables from the VMM (fw_cfg)"
    if data.startswith(FW_CFG_PREFIX):
        return f"fw_cfg {_c_string(data[len(FW_CFG_PREFIX) :])} from the VMM"
    if data.startswith((b"td_hob\0", b"td_payload_info\0")):
        return f"td-shim {_c_string(data[:TD_SHIM_NAME_SIZE])}, {len(data)} bytes"
    return _utf16(data)


def _nonhost(data: bytes) -> str:
    if data.startswith(b"GCE NonHostInfo\0") and len(data) > 16:
        technology = GCE_TECHNOLOGIES.get(data[16], f"technology {data[16]}")
        return f"Google Compute Engine, confidential computing: {technology}"
    return _plain(data)


def _ipl(data: bytes) -> str:
    text = _utf16(data)
    for prefix, words in GRUB_WORDS.items():
        if text.startswith(prefix):
            return f"{words}: {text.removeprefix(prefix)}"
    if text in MOK_VARIABLES:
        return f"shim's {text}, {MOK_VARIABLES[text]}"
    return f"boot loader: {text}"


GRUB_WORDS = {
    "grub_cmd: ": "GRUB command",
    "kernel_cmdline: ": "GRUB kernel command line",
    "module_cmdline: ": "GRUB module command line",
}

TEXTS: dict[int, Callable[[bytes], str]] = {
    event_log.EV_NO_ACTION: _no_action,
    event_log.EV_SEPARATOR: _separator,
    event_log.EV_S_CRTM_VERSION: _utf16,
    event_log.EV_PLATFORM_CONFIG_FLAGS: _config,
    event_log.EV_IPL: _ipl,
    event_log.EV_NONHOST_INFO: _nonhost,
}
