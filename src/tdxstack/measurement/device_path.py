"""UEFI device paths as text, as firmware and efibootmgr show them.

Source: UEFI specification 2.11, chapter 10. All integers are little-endian.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address
from uuid import UUID

from tdxstack.abi.binary import Reader
from tdxstack.errors import MalformedError
from tdxstack.measurement.text import printable

NODE_HEADER_SIZE = 4
MAX_NODES = 64
"""Nodes that are shown; real paths have a dozen."""

END_TYPE = 0x7F
END_INSTANCE = 0x01

EISA_PCI_ROOT = (0x0A0341D0, 0x0A0841D0)


def device_path_text(data: bytes) -> str:
    """A device path as text, its nodes joined by "/". Raises `MalformedError` on broken node lengths."""
    reader = Reader(data, "device path")
    nodes: list[str] = []
    while reader.remaining and len(nodes) < MAX_NODES:
        kind, subtype, length = reader.u8("type"), reader.u8("subtype"), reader.u16("length")
        if length < NODE_HEADER_SIZE:
            raise MalformedError(
                f"device path: a node of {length} bytes at offset {reader.offset - NODE_HEADER_SIZE}",
                hint="the event log is damaged",
            )
        body = reader.take(length - NODE_HEADER_SIZE, "node")
        if kind != END_TYPE:
            nodes.append(_node(kind, subtype, body))
        elif subtype == END_INSTANCE:
            nodes.append(",")
        else:
            break
    return "/".join(nodes) + ("/..." if len(nodes) == MAX_NODES else "")


def _node(kind: int, subtype: int, body: bytes) -> str:
    render = RENDERERS.get((kind, subtype))
    if render is not None:
        try:
            return render(Reader(body, "device path node"))
        except MalformedError:
            pass  # shown in its raw form, as the node has an unknown layout
    return f"Path({kind},{subtype},{body[:32].hex()}{'...' if len(body) > 32 else ''})"


def _pci(reader: Reader) -> str:
    function, device = reader.u8("function"), reader.u8("device")
    return f"Pci(0x{device:x},0x{function:x})"


def _memory_mapped(reader: Reader) -> str:
    kind, start, end = reader.u32("type"), reader.u64("start"), reader.u64("end")
    return f"MemoryMapped(0x{kind:x},0x{start:x},0x{end:x})"


def _acpi(reader: Reader) -> str:
    hid, uid = reader.u32("HID"), reader.u32("UID")
    return f"PciRoot(0x{uid:x})" if hid in EISA_PCI_ROOT else f"Acpi(0x{hid:08x},0x{uid:x})"


def _sata(reader: Reader) -> str:
    port, multiplier, lun = reader.u16("port"), reader.u16("multiplier"), reader.u16("LUN")
    return f"Sata(0x{port:x},0x{multiplier:x},0x{lun:x})"


def _scsi(reader: Reader) -> str:
    target, lun = reader.u16("target"), reader.u16("LUN")
    return f"Scsi(0x{target:x},0x{lun:x})"


def _nvme(reader: Reader) -> str:
    namespace, eui = reader.u32("namespace"), reader.take(8, "EUI-64")
    return f"NVMe(0x{namespace:x},{eui[::-1].hex('-')})"


def _usb(reader: Reader) -> str:
    port, interface = reader.u8("port"), reader.u8("interface")
    return f"USB(0x{port:x},0x{interface:x})"


def _ipv4(reader: Reader) -> str:
    local, remote = reader.take(4, "local address"), reader.take(4, "remote address")
    return f"IPv4({'.'.join(map(str, remote))},{'.'.join(map(str, local))})"


def _ipv6(reader: Reader) -> str:
    local, remote = reader.take(16, "local address"), reader.take(16, "remote address")
    return f"IPv6({IPv6Address(remote)},{IPv6Address(local)})"


def _offsets(reader: Reader) -> str:
    reader.view(4, "reserved")
    start, end = reader.u64("start"), reader.u64("end")
    return f"Offset(0x{start:x},0x{end:x})"


def _cdrom(reader: Reader) -> str:
    entry, start, size = reader.u32("boot entry"), reader.u64("start"), reader.u64("size")
    return f"CDROM(0x{entry:x},0x{start:x},0x{size:x})"


def _ram_disk(reader: Reader) -> str:
    start, end, kind = reader.u64("start"), reader.u64("end"), UUID(bytes_le=reader.take(16, "type"))
    return f"RamDisk(0x{start:x},0x{end:x},{kind})"


def _bios_boot(reader: Reader) -> str:
    kind = reader.u16("device type")
    reader.view(2, "status flag")
    return f"BBS(0x{kind:x},{printable(reader.rest().partition(bytes(1))[0].decode('latin-1'))})"


def _number(name: str, size: int) -> Callable[[Reader], str]:
    def render(reader: Reader) -> str:
        return f"{name}(0x{int.from_bytes(reader.take(size, name), 'little'):x})"

    return render


def _mac(reader: Reader) -> str:
    address = reader.take(6, "address")
    reader.take(26, "padding")
    return f"MAC({address.hex()},0x{reader.u8('interface type'):x})"


def _hard_drive(reader: Reader) -> str:
    number, start, size = reader.u32("partition"), reader.u64("start"), reader.u64("size")
    signature, table = reader.take(16, "signature"), reader.u8("partition table")
    if table == 2:
        return f"HD({number},GPT,{UUID(bytes_le=signature)},0x{start:x},0x{size:x})"
    return f"HD({number},MBR,0x{int.from_bytes(signature[:4], 'little'):08x},0x{start:x},0x{size:x})"


def _file(reader: Reader) -> str:
    return printable(reader.rest().decode("utf-16-le", "replace").rstrip("\0"))


def _uri(reader: Reader) -> str:
    return f"Uri({printable(reader.rest().decode('utf-8', 'replace'))})"


def _guid(name: str) -> Callable[[Reader], str]:
    def render(reader: Reader) -> str:
        return f"{name}({UUID(bytes_le=reader.take(16, 'GUID'))})"

    return render


RENDERERS: dict[tuple[int, int], Callable[[Reader], str]] = {
    (1, 1): _pci,
    (1, 3): _memory_mapped,
    (1, 4): _guid("VenHw"),
    (1, 5): _number("Ctrl", 4),
    (2, 1): _acpi,
    (2, 3): _number("AcpiAdr", 4),
    (3, 2): _scsi,
    (3, 5): _usb,
    (3, 10): _guid("VenMsg"),
    (3, 11): _mac,
    (3, 12): _ipv4,
    (3, 13): _ipv6,
    (3, 17): _number("Unit", 1),
    (3, 18): _sata,
    (3, 20): _number("Vlan", 2),
    (3, 23): _nvme,
    (3, 24): _uri,
    (3, 26): _number("SD", 1),
    (3, 29): _number("eMMC", 1),
    (4, 1): _hard_drive,
    (4, 2): _cdrom,
    (4, 3): _guid("VenMedia"),
    (4, 4): _file,
    (4, 5): _guid("Media"),
    (4, 6): _guid("FvFile"),
    (4, 7): _guid("Fv"),
    (4, 8): _offsets,
    (4, 9): _ram_disk,
    (5, 1): _bios_boot,
}
"""By (type, subtype)."""
