"""Event logs of TDs, made by hand: one plain boot, and what changes of it look like."""

from __future__ import annotations

import hashlib
from uuid import UUID

from tdxstack.abi import event_log, td_hob
from tdxstack.abi.event_log import ALG_SHA384, Event
from tdxstack.measurement.comparison.memory_size import EDK2_LAYOUT
from tdxstack.measurement.comparison.side import Side, entries_of_log
from tdxstack.measurement.event_data import BootOption, UefiVariable
from tdxstack.measurement.replay import replay

GLOBAL = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
DATABASE = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
OWNER = UUID("77fa9abd-0359-4d32-bd60-28f4e78f784b")
SHA256_LIST = UUID("c1c41626-504c-4092-aca9-41f936934328")
SMBIOS = UUID("eb9d2d31-2d88-11d3-9a16-0090273fc14d")
LOAD_OPTIONS, INITRD = 0x8F3B22ED, 0x8F3B22EC
END_OF_PATH = bytes.fromhex("7fff0400")
GIB = 1 << 30
MRSEAM = b"\5" * 48
MRTD = bytes([0xA7]) * 48
RTMR0, RTMR1, RTMR2, RTMR3 = 1, 2, 3, 4


def event(register: int, kind: int, data: bytes, measured: bytes | None = None) -> Event:
    """An event with the digest of `measured`, or of its data."""
    digest = hashlib.sha384(data if measured is None else measured).digest()
    return Event(register, kind, ((ALG_SHA384, digest),), data)


def hob(memory: int) -> Event:
    table = b"\x09TdxTable\0" + (1).to_bytes(8, "little") + bytes(24)
    return event(RTMR0, event_log.EV_EFI_HANDOFF_TABLES2, table, td_hob.build(EDK2_LAYOUT, memory).measured())


def smbios(text: bytes) -> Event:
    table = (1).to_bytes(8, "little") + SMBIOS.bytes_le + bytes(8)
    return event(RTMR0, event_log.EV_EFI_HANDOFF_TABLES, table, text)


def configuration(data: bytes, measured: bytes) -> Event:
    return event(RTMR0, event_log.EV_PLATFORM_CONFIG_FLAGS, data, measured)


def variable(name: str, value: bytes, vendor: UUID = GLOBAL) -> Event:
    kind = event_log.EV_EFI_VARIABLE_DRIVER_CONFIG
    return event(RTMR0, kind, UefiVariable(vendor, name, value).to_bytes())


def signature_list(*hashes: bytes) -> bytes:
    """An EFI_SIGNATURE_LIST of SHA-256 image hashes."""
    body = b"".join(OWNER.bytes_le + value for value in hashes)
    size = 28 + len(body)
    return SHA256_LIST.bytes_le + b"".join(n.to_bytes(4, "little") for n in (size, 0, 48)) + body


def boot_order(*numbers: int, register: int = RTMR0) -> Event:
    value = b"".join(number.to_bytes(2, "little") for number in numbers)
    data = UefiVariable(GLOBAL, "BootOrder", value).to_bytes()
    return event(register, event_log.EV_EFI_VARIABLE_BOOT, data)


def boot_option(number: int, description: str) -> Event:
    option = BootOption(1, description, END_OF_PATH, b"").to_bytes()
    data = UefiVariable(GLOBAL, f"Boot{number:04X}", option).to_bytes()
    return event(RTMR0, event_log.EV_EFI_VARIABLE_BOOT, data)


def separator(register: int) -> Event:
    return event(register, event_log.EV_SEPARATOR, bytes(4))


def action(text: bytes) -> Event:
    return event(RTMR1, event_log.EV_EFI_ACTION, text)


def image(content: bytes, path: bytes = b"") -> Event:
    data = bytes(8) + (4096).to_bytes(8, "little") + bytes(8) + len(path).to_bytes(8, "little") + path
    return event(RTMR1, event_log.EV_EFI_BOOT_SERVICES_APPLICATION, data, content)


def boot_loader(text: bytes) -> Event:
    """What GRUB logs: what it measures, behind a word of what that is."""
    return event(RTMR2, event_log.EV_IPL, text + b"\0", text.partition(b": ")[2] or text)


def tagged(tag: int, measured: bytes) -> Event:
    text = b"LOADED_IMAGE::LoadOptions\0"
    data = tag.to_bytes(4, "little") + len(text).to_bytes(4, "little") + text
    return event(RTMR2, event_log.EV_EVENT_TAG, data, measured)


def command_line(text: str) -> Event:
    return tagged(LOAD_OPTIONS, text.encode("utf-16-le"))


def gpt(disk: UUID) -> Event:
    header = bytes(56) + disk.bytes_le + bytes(12) + (128).to_bytes(4, "little") + bytes(4)
    entry = OWNER.bytes_le + DATABASE.bytes_le + bytes(24) + "root".encode("utf-16-le").ljust(72, b"\0")
    return event(RTMR1, event_log.EV_EFI_GPT_EVENT, header + (1).to_bytes(8, "little") + entry)


KERNEL = image(b"kernel")
PLAIN: tuple[Event, ...] = (
    hob(2 * GIB),
    event(RTMR0, event_log.EV_EFI_PLATFORM_FIRMWARE_BLOB2, b"\x05Fv(X)" + bytes(16), b"CFV"),
    configuration(b"QEMU FW CFG\0bootorder\0", b"order"),
    variable("SecureBoot", b"\1"),
    variable("db", signature_list(b"\1" * 32, b"\2" * 32), DATABASE),
    separator(RTMR0),
    configuration(b"ACPI DATA", b"loader"),
    configuration(b"ACPI DATA", b"tables"),
    smbios(b"smbios"),
    boot_order(1, 0),
    boot_option(1, "disk"),
    action(b"Calling EFI Application from Boot Option"),
    separator(RTMR1),
    gpt(OWNER),
    image(b"shim", END_OF_PATH),
    KERNEL,
    boot_loader(b"MokList"),
    boot_loader(b"grub_cmd: linux /vmlinuz"),
    boot_loader(b"kernel_cmdline: /vmlinuz root=/dev/vda"),
    command_line("/vmlinuz root=/dev/vda"),
    tagged(INITRD, b"initrd"),
    action(b"Exit Boot Services Invocation"),
    action(b"Exit Boot Services Returned with Success"),
)


def side(name: str, events: tuple[Event, ...], texts: tuple[str, ...] = (), rtmr3: bytes = bytes(48)) -> Side:
    """A TD that logged `events`."""
    registers = dict(zip(("rtmr0", "rtmr1", "rtmr2", "rtmr3"), replay(events), strict=True))
    registers |= {"mrseam": MRSEAM, "mrtd": MRTD, "rtmr3": rtmr3}
    return Side(name, "evidence", registers, entries_of_log(events, texts))


def with_one(old: Event, *new: Event) -> tuple[Event, ...]:
    """The plain boot with one event replaced by `new` (removed if there are none)."""
    at = PLAIN.index(old)
    return PLAIN[:at] + new + PLAIN[at + 1 :]
