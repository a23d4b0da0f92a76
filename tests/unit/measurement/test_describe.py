from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.abi import event_log
from tdxstack.abi.event_log import ALG_SHA384, Event
from tdxstack.errors import MalformedError
from tdxstack.measurement.decode import BootVariable, decode
from tdxstack.measurement.describe import describe
from tdxstack.measurement.device_path import device_path_text
from tdxstack.measurement.event_data import (
    BootOption,
    FirmwareBlob,
    GptTable,
    HandoffTables,
    ImageLoad,
    TaggedEvent,
    UefiVariable,
)
from tdxstack.measurement.signature_list import X509, parse_signature_lists, subject_name
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


def der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    size = bytes((len(body),)) if len(body) < 128 else b"\x82" + len(body).to_bytes(2, "big")
    return bytes((tag,)) + size + body


def der_certificate(subject: bytes) -> bytes:
    """As much of a certificate as comes before its key."""

    def name(text: bytes) -> bytes:
        return der(0x30, der(0x31, der(0x30, b"\x06\x03\x55\x04\x03", der(0x0C, text))))

    tbs = der(
        0x30, der(0xA0, der(2, b"\2")), der(2, b"\1"), der(0x30), name(b"Issuer"), der(0x30), name(subject)
    )
    return der(0x30, tbs, der(0x30), der(3, bytes(300)))


def signature_list(kind: UUID, signatures: list[bytes]) -> bytes:
    each = 16 + len(signatures[0])
    head = struct.pack("<16sIII", kind.bytes_le, 28 + each * len(signatures), 0, each)
    return head + b"".join(UI_APP.bytes_le + signature for signature in signatures)


def certificates(*subjects: bytes) -> bytes:
    return b"".join(signature_list(X509, [der_certificate(subject)]) for subject in subjects)


def hashes(count: int) -> bytes:
    return signature_list(UUID("c1c41626-504c-4092-aca9-41f936934328"), [bytes(32)] * count)


PCI_CONTEXT = struct.pack("<HHHH", 0, 16, 0x8086, 0x1234) + bytes(8)


def spdm_1(path: bytes, block: bytes) -> bytes:
    head = struct.pack("<16sHHII", b"SPDM Device Sec", 1, 0, 2, 1)
    return head + block + struct.pack("<Q", len(path)) + path + PCI_CONTEXT


def spdm_2(path: bytes, kind: int, sub_header: bytes) -> bytes:
    head = struct.pack("<16sHBBIIIIQ", b"SPDM Device Sec2", 2, 0, 0, 0, 1, kind, len(sub_header), 7)
    return head + struct.pack("<Q", len(path)) + path + sub_header + PCI_CONTEXT


WORDS: list[tuple[int, bytes, str]] = [
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
        b"\x09TdxTable\0" + struct.pack("<Q16sQ", 1, UI_APP.bytes_le, 0),
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
    (event_log.EV_IPL, b"MokListX\0", "shim's MokListX, hashes that the machine's owner forbids"),
    (event_log.EV_IPL, b"(hd0,gpt1)/grub.cfg\0", "boot loader: (hd0,gpt1)/grub.cfg"),
    (
        event_log.EV_EVENT_TAG,
        struct.pack("<II", 0x8F3B22ED, 4) + b"abc\0",
        "kernel command line, as Linux's EFI stub got it",
    ),
    (event_log.EV_EVENT_TAG, struct.pack("<II", 0x4C454141, 4) + b"abc\0", "tag 0x4c454141: abc"),
    (event_log.EV_EFI_ACTION, b"Exit Boot Services Invocation", "Exit Boot Services Invocation"),
    (event_log.EV_EVENT_TAG, b"LEAA\3\0\0\0a b", "attestation agent: a b"),
    (
        event_log.EV_EVENT_TAG,
        struct.pack("<II", 0xF5BC582A, 6) + "ab\0".encode("utf-16-le"),
        "systemd-boot's loader.conf: ab",
    ),
    (
        event_log.EV_EFI_VARIABLE_DRIVER_CONFIG,
        variable("KEK", certificates(b"My Key")),
        "variable KEK: My Key",
    ),
    (
        event_log.EV_EFI_VARIABLE_DRIVER_CONFIG,
        variable("dbx", certificates(b"Bad", b"Worse") + hashes(3)),
        "variable dbx: Bad, Worse, 3 hashes (SHA-256)",
    ),
    (
        event_log.EV_EFI_VARIABLE_AUTHORITY,
        variable("db", UI_APP.bytes_le + der_certificate(b"My Key")),
        "an image was verified by db: My Key",
    ),
    (
        event_log.EV_EFI_VARIABLE_AUTHORITY,
        variable("Shim", der_certificate(b"Vendor")) + bytes(6),  # as shim logged it before 15.3
        "an image was verified by Shim: Vendor",
    ),
    (
        event_log.EV_EFI_VARIABLE_AUTHORITY,
        variable("MokListTrusted", b"\1"),
        "an image was verified by MokListTrusted,"
        " whether machine owner keys are trusted by the kernel: 1 bytes",
    ),
    (
        event_log.EV_EFI_PLATFORM_FIRMWARE_BLOB,
        struct.pack("<QQ", 0xFF000000, 0x1000),
        "firmware blob at 0xff000000, 0x1000 bytes",
    ),
    (event_log.EV_POST_CODE, b"ACPI DATA", "ACPI DATA"),
    (
        event_log.EV_POST_CODE2,
        b"\4CODE" + struct.pack("<QQ", 16, 32),
        "firmware blob CODE at 0x10, 0x20 bytes",
    ),
    (event_log.EV_NO_ACTION, b"StartupLocality\0\3", "TPM was started in locality 3"),
    (event_log.EV_NO_ACTION, b"SP800-155 Event\0" + bytes(9), "SP800-155 Event, 25 bytes"),
    (event_log.EV_SEPARATOR, b"WBCL", "end of what firmware measures, start of Windows's log"),
    (
        event_log.EV_NONHOST_INFO,
        b"GCE NonHostInfo\0\3" + bytes(15),
        "Google Compute Engine, confidential computing: Intel TDX",
    ),
    (
        event_log.EV_EFI_SPDM_FIRMWARE_BLOB,
        spdm_1(DISK, b"\2\1\3\0abc"),
        f"SPDM PCI device 8086:1234 {DISK_TEXT}, measurements 2",
    ),
    (
        event_log.EV_EFI_SPDM_FIRMWARE_CONFIG,
        spdm_2(DISK, 0, struct.pack("<HBBI", 0x12, 2, 0, 2) + b"\1\1\1\0a\7\1\0\0"),
        f"SPDM PCI device 8086:1234 {DISK_TEXT}, authenticated, measurements 1, 7",
    ),
    (
        event_log.EV_EFI_SPDM_FIRMWARE_BLOB,
        spdm_2(b"", 1, b"chain"),
        "SPDM PCI device 8086:1234 without a path, authenticated, certificate chain",
    ),
    (0x77777777, b"\x80" * 40, "80" * 32 + "... (40 bytes)"),
    (0x77777777, b"", "no data"),
]


@pytest.mark.parametrize(("kind", "data", "words"), WORDS)
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


def test_absurd_names_are_refused() -> None:
    name = "n" * 65537
    with pytest.raises(MalformedError, match="a name of 65537 units at offset 32"):
        UefiVariable.parse(UefiVariable(UI_APP, name, b"").to_bytes())
    with pytest.raises(MalformedError, match="its description has no end"):
        BootOption.parse(BootOption(0, name, b"", b"").to_bytes())


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
    checks: list[Callable[[], bytes]] = [
        lambda: UefiVariable.parse(data).to_bytes(),
        lambda: BootOption.parse(data).to_bytes(),
        lambda: ImageLoad.parse(data).to_bytes(),
        lambda: GptTable.parse(data).to_bytes(),
        lambda: TaggedEvent.parse(data).to_bytes(),
        lambda: FirmwareBlob.parse(data, named=False).to_bytes(),
        lambda: FirmwareBlob.parse(data, named=True).to_bytes(),
        lambda: HandoffTables.parse(data, named=False).to_bytes(),
        lambda: HandoffTables.parse(data, named=True).to_bytes(),
    ]
    for round_trip in checks:
        with contextlib.suppress(MalformedError):
            assert round_trip() == data


@given(
    st.text(max_size=10).filter(lambda text: "\0" not in text), st.binary(max_size=20), st.binary(max_size=20)
)
def test_boot_option_round_trip(description: str, path: bytes, optional: bytes) -> None:
    option = BootOption(0x101, description, path, optional)
    assert BootOption.parse(option.to_bytes()) == option


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("USB(0x1,0x2)", node(3, 5, b"\1\2")),
        ("IPv4(10.0.0.1,10.0.0.2)", node(3, 12, bytes((10, 0, 0, 2, 10, 0, 0, 1)) + bytes(11))),
        ("IPv6(::1,::2)", node(3, 13, bytes(15) + b"\2" + bytes(15) + b"\1" + bytes(5))),
        ("Vlan(0x7)", node(3, 20, b"\7\0")),
        ("CDROM(0x1,0x2,0x3)", node(4, 2, struct.pack("<IQQ", 1, 2, 3))),
        ("Offset(0x1,0x2)", node(4, 8, struct.pack("<IQQ", 0, 1, 2))),
        (f"RamDisk(0x1,0x2,{UI_APP})", node(4, 9, struct.pack("<QQ16sH", 1, 2, UI_APP.bytes_le, 0))),
        ("BBS(0x2,disk)", node(5, 1, struct.pack("<HH", 2, 0) + b"disk\0")),
        ("eMMC(0x0)", node(3, 29, b"\0")),
        ("AcpiAdr(0x80010100)", node(2, 3, struct.pack("<I", 0x80010100))),
    ],
)
def test_device_path_nodes(text: str, body: bytes) -> None:
    assert device_path_text(body + END) == text


def test_endless_device_path_is_cut() -> None:
    assert device_path_text(node(1, 1, b"\0\0") * 1000).count("Pci") == 64


def test_decoding_gives_values_that_compare() -> None:
    image = struct.pack("<QQQQ", 1, 4096, 0, len(DISK)) + DISK
    event = Event(2, event_log.EV_EFI_BOOT_SERVICES_APPLICATION, (), image)
    assert decode(event) == ImageLoad(1, 4096, 0, DISK)
    order = decode(Event(1, event_log.EV_EFI_VARIABLE_BOOT, (), variable("BootOrder", b"\1\0\0\0")))
    assert isinstance(order, BootVariable)
    assert (order.order, order.option) == ((1, 0), None)
    table = decode(Event(2, event_log.EV_EFI_GPT_EVENT, (), gpt("root")))
    assert isinstance(table, GptTable)
    assert (table.disk, table.partitions[0].name, table.partitions[0].blocks) == (UI_APP, "root", (0, 0))
    assert decode(Event(2, event_log.EV_EFI_GPT_EVENT, (), gpt("root")[:-1])) is None
    assert decode(Event(1, event_log.EV_SEPARATOR, (), bytes(4))) is None


@pytest.mark.parametrize(
    "data",
    [
        hashes(1)[:-1],
        hashes(1) + b"x",
        struct.pack("<16sIII", X509.bytes_le, 27, 0, 17),
        struct.pack("<16sIII", X509.bytes_le, 44, 0, 16) + bytes(16),
        struct.pack("<16sIII", X509.bytes_le, 45, 0, 0) + bytes(17),
        struct.pack("<16sIII", X509.bytes_le, 28 + 17 * 65537, 0, 17) + bytes(17 * 65537),
    ],
)
def test_broken_signature_lists(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_signature_lists(data)


@given(st.binary(max_size=200))
def test_any_bytes_as_signatures(data: bytes) -> None:
    subject_name(data)
    subject_name(der_certificate(data))
    try:
        parse_signature_lists(data)
    except MalformedError as error:
        assert error.hint
