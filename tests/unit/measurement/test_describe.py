from __future__ import annotations

import struct
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.abi import event_log
from tdxstack.abi.event_log import ALG_SHA384, Event
from tdxstack.errors import MalformedError
from tdxstack.measurement.describe import describe
from tdxstack.measurement.device_path import device_path_text
from tdxstack.measurement.event_data import BootOption, UefiVariable
from tdxstack.measurement.text import printable

GLOBAL = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c").bytes_le
UI_APP = UUID("462caa21-7614-4503-836e-8ab6f4662331")
DXE_FV = UUID("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1")


def node(kind: int, subtype: int, body: bytes) -> bytes:
    return struct.pack("<BBH", kind, subtype, 4 + len(body)) + body


END = node(0x7F, 0xFF, b"")
DISK = (
    node(2, 1, struct.pack("<II", 0x0A0341D0, 0))
    + node(1, 1, b"\0\3")
    + node(4, 1, struct.pack("<IQQ16sBB", 1, 0x800, 0x1000, UI_APP.bytes_le, 2, 2))
    + node(4, 4, "\\EFI\\BOOT\\BOOTX64.EFI\0".encode("utf-16-le"))
    + END
)
DISK_TEXT = rf"PciRoot(0x0)/Pci(0x3,0x0)/HD(1,GPT,{UI_APP},0x800,0x1000)/\EFI\BOOT\BOOTX64.EFI"
FIRMWARE_APP = node(4, 7, DXE_FV.bytes_le) + node(4, 6, UI_APP.bytes_le) + END


def say(kind: int, data: bytes) -> str:
    return describe(Event(1, kind, ((ALG_SHA384, bytes(48)),), data))


def variable(name: str, value: bytes) -> bytes:
    return struct.pack("<16sQQ", GLOBAL, len(name), len(value)) + name.encode("utf-16-le") + value


def boot_option(description: str, path: bytes) -> bytes:
    return struct.pack("<IH", 1, len(path)) + description.encode("utf-16-le") + b"\0\0" + path


def gpt(*names: str) -> bytes:
    header = b"EFI PART" + bytes(48) + UI_APP.bytes_le + struct.pack("<QIII", 2, 128, 128, 0)
    entries = b"".join(bytes(56) + name.encode("utf-16-le").ljust(72, b"\0") for name in names)
    return header + struct.pack("<Q", len(names)) + entries


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        (event_log.EV_SEPARATOR, bytes(4), "end of the pre-boot phase"),
        (event_log.EV_SEPARATOR, b"\1\0\0\0", "error separator 01000000"),
        (event_log.EV_EFI_VARIABLE_DRIVER_CONFIG, variable("SecureBoot", b"\1"), "variable SecureBoot: on"),
        (event_log.EV_EFI_VARIABLE_DRIVER_CONFIG, variable("SecureBoot", b"\0"), "variable SecureBoot: off"),
        (
            event_log.EV_EFI_VARIABLE_DRIVER_CONFIG,
            variable("SecureBoot", b""),
            "variable SecureBoot: not supported",
        ),
        (event_log.EV_EFI_VARIABLE_DRIVER_CONFIG, variable("PK", b""), "variable PK: empty"),
        (event_log.EV_EFI_VARIABLE_DRIVER_CONFIG, variable("db", b"abc"), "variable db: 3 bytes"),
        (
            event_log.EV_EFI_VARIABLE_AUTHORITY,
            variable("SbatLevel", b"sbat,1,2023\nshim,2\n"),
            "an image was verified by variable SbatLevel: sbat,1,2023; shim,2",
        ),
        (event_log.EV_EFI_VARIABLE_BOOT, variable("BootOrder", b"\1\0\0\0"), "boot order 0001, 0000"),
        (
            event_log.EV_EFI_VARIABLE_BOOT,
            variable("Boot0000", boot_option("UiApp", FIRMWARE_APP)),
            f"boot option Boot0000: UiApp, Fv({DXE_FV})/FvFile({UI_APP})",
        ),
        (
            event_log.EV_EFI_BOOT_SERVICES_APPLICATION,
            struct.pack("<QQQQ", 1, 4096, 0, len(DISK)) + DISK,
            f"PE image {DISK_TEXT}, 4096 bytes in memory",
        ),
        (
            event_log.EV_EFI_BOOT_SERVICES_APPLICATION,
            struct.pack("<QQQQ", 1, 4096, 0, 0),
            "PE image without a path, 4096 bytes in memory",
        ),
        (
            event_log.EV_EFI_GPT_EVENT,
            gpt("EFI System Partition", ""),
            f"partition table of disk {UI_APP}, 2 partitions: EFI System Partition, unnamed",
        ),
        (
            event_log.EV_EFI_PLATFORM_FIRMWARE_BLOB2,
            b"\x08Fv(XXXX)" + struct.pack("<QQ", 0xFFC00000, 0x84000),
            "firmware configuration volume Fv(XXXX) at 0xffc00000, 0x84000 bytes",
        ),
        (
            event_log.EV_EFI_HANDOFF_TABLES2,
            b"\x09TdxTable\0" + bytes(32),
            "TD HOB, the memory that the VMM gives to the TD",
        ),
        (
            event_log.EV_EFI_HANDOFF_TABLES,
            struct.pack("<Q", 1) + UUID("eb9d2d31-2d88-11d3-9a16-0090273fc14d").bytes_le + bytes(8),
            "hand-off tables SMBIOS",
        ),
        (event_log.EV_PLATFORM_CONFIG_FLAGS, b"ACPI DATA", "ACPI tables from the VMM (fw_cfg)"),
        (
            event_log.EV_PLATFORM_CONFIG_FLAGS,
            b"QEMU FW CFG\0" + b"etc/boot-menu-wait".ljust(56, b"\0"),
            "fw_cfg etc/boot-menu-wait from the VMM",
        ),
        (event_log.EV_PLATFORM_CONFIG_FLAGS, b"td_hob".ljust(24, b"\0"), "td-shim td_hob, 24 bytes"),
        (event_log.EV_PLATFORM_CONFIG_FLAGS, "kernel\0".encode("utf-16-le"), "kernel"),
        (event_log.EV_IPL, b"grub_cmd: set timeout=0\0", "GRUB command: set timeout=0"),
        (event_log.EV_IPL, b"kernel_cmdline: /vmlinuz ro\0", "GRUB kernel command line: /vmlinuz ro"),
        (event_log.EV_IPL, b"MokListX\0", "shim's MokListX"),
        (event_log.EV_IPL, b"(hd0,gpt1)/grub.cfg\0", "boot loader: (hd0,gpt1)/grub.cfg"),
        (
            event_log.EV_EVENT_TAG,
            struct.pack("<II", 0x8F3B22ED, 4) + b"abc\0",
            "kernel command line, as Linux's EFI stub got it",
        ),
        (event_log.EV_EVENT_TAG, struct.pack("<II", 0x4C454141, 4) + b"abc\0", "tag 0x4c454141: abc"),
        (event_log.EV_EFI_ACTION, b"Exit Boot Services Invocation", "Exit Boot Services Invocation"),
        (0x77777777, b"\x80" * 40, "80" * 32 + "... (40 bytes)"),
        (0x77777777, b"", "no data"),
    ],
)
def test_words(kind: int, data: bytes, words: str) -> None:
    assert say(kind, data) == words


@given(st.sampled_from(sorted(event_log.EVENT_TYPE_NAMES)), st.binary(max_size=200))
def test_any_data_gives_one_printable_line(kind: int, data: bytes) -> None:
    assert say(kind, data).isprintable()


@given(
    st.sampled_from([event_log.EV_EFI_VARIABLE_DRIVER_CONFIG, event_log.EV_EFI_VARIABLE_BOOT]),
    st.sampled_from(["SecureBoot", "SbatLevel", "BootOrder", "Boot0001", "\ud800\n"]),
    st.binary(max_size=80),
)
def test_any_variable_gives_one_printable_line(kind: int, name: str, value: bytes) -> None:
    data = UefiVariable(UI_APP, name, value).to_bytes()
    assert say(kind, data).isprintable()


@pytest.mark.parametrize("prefix", [b"td_hob\0", b"QEMU FW CFG\0", b"ACPI DATA"])
@given(tail=st.binary(max_size=40))
def test_any_configuration_gives_one_printable_line(prefix: bytes, tail: bytes) -> None:
    assert say(event_log.EV_PLATFORM_CONFIG_FLAGS, prefix + tail).isprintable()


def test_hostile_text_is_escaped() -> None:
    assert say(event_log.EV_IPL, b"a\nb\x1b[2J") == "boot loader: 610a621b5b324a"
    assert printable("a\nb\x1b[2J\ud800") == r"a\nb\x1b[2J\ud800"
    assert printable("x" * 10, limit=4) == "xxxx..."


def test_device_path() -> None:
    assert device_path_text(DISK) == DISK_TEXT
    assert device_path_text(b"") == ""
    assert device_path_text(node(3, 23, struct.pack("<I8s", 1, bytes(8))) + END) == (
        "NVMe(0x1,00-00-00-00-00-00-00-00)"
    )
    assert device_path_text(node(9, 9, b"\1\2")) == "Path(9,9,0102)"
    assert device_path_text(node(1, 1, b"\1")) == "Path(1,1,01)"  # too short for a PCI node


@pytest.mark.parametrize("data", [b"\1\1\3\0", b"\1\1\5\0", b"\1\1"])
def test_broken_device_path(data: bytes) -> None:
    with pytest.raises(MalformedError):
        device_path_text(data)


def test_description_ends_at_a_whole_zero_unit() -> None:
    option = BootOption.parse(b"\1\0\0\0\2\0" + "A\u0100".encode("utf-16-le") + b"\0\0PPoptional")
    assert option == BootOption(1, "A\u0100", b"PP", b"optional")
    for unended in ("A", "A\u0100"):
        with pytest.raises(MalformedError, match="its description has no end"):
            BootOption.parse(b"\1\0\0\0\0\0" + unended.encode("utf-16-le"))


@given(st.binary(max_size=100))
def test_event_data_round_trip(data: bytes) -> None:
    for kind in (UefiVariable, BootOption):
        try:
            parsed = kind.parse(data)
        except MalformedError:
            continue
        assert parsed.to_bytes() == data


@given(
    st.text(max_size=10).filter(lambda text: "\0" not in text), st.binary(max_size=20), st.binary(max_size=20)
)
def test_boot_option_round_trip(description: str, path: bytes, optional: bytes) -> None:
    option = BootOption(0x101, description, path, optional)
    assert BootOption.parse(option.to_bytes()) == option
