"""Stands in for a stopped QEMU: fw_cfg, a little memory and PCI configuration behind the test protocol."""

from __future__ import annotations

import struct
import sys

ITEMS = {
    "etc/table-loader": b"loader",
    "etc/acpi/tables": b"tables",
    "bootorder": b"/pci@i0cf8/scsi@1/disk@0,0\0",
    "opt/other": b"other",
}
SELECTORS = {name: 0x20 + number for number, name in enumerate(ITEMS)}
DIRECTORY = struct.pack(">I", len(ITEMS)) + b"".join(
    struct.pack(">IHH56s", len(data), SELECTORS[name], 0, name.encode()) for name, data in ITEMS.items()
)
CONTENT = {0x0E: b"\1\0", 0x17: struct.pack("<I", 4), 0x18: b"boot", 0x19: DIRECTORY} | {
    SELECTORS[name]: data for name, data in ITEMS.items()
}
FUNCTIONS = {(0, 0): 0x29C08086, (1, 0): 0x10421AF4, (31, 0): 0x29188086, (31, 2): 0x29228086}


def main() -> None:
    memory = bytearray(0x1100000)
    pci: dict[tuple[int, int, int], int] = {(1, 0, 0x20): 0x0C}
    selected = 0
    for line in sys.stdin:
        words = line.split()
        answer = ""
        match words:
            case ["write", address, size, data]:
                start = int(address, 16)
                memory[start : start + int(size)] = bytes.fromhex(data[2:])
            case ["read", address, size]:
                start = int(address, 16)
                answer = " 0x" + memory[start : start + int(size)].hex()
            case ["readl", address]:
                answer = f" 0x{int.from_bytes(memory[int(address, 16) :][:4], 'little'):016x}"
            case ["outl", "0x518", value]:
                request = int.from_bytes(int(value, 16).to_bytes(4, "little"), "big")
                control, length, target = struct.unpack(">IIQ", memory[request : request + 16])
                memory[target : target + length] = CONTENT.get(control >> 16, b"").ljust(length, b"\0")[
                    :length
                ]
                memory[request : request + 4] = bytes(4)
            case ["outl", "0xcf8", value]:
                selected = int(value, 16)
            case ["outl", "0xcfc", value]:
                pci[_place(selected)] = int(value, 16)
                print(f"programmed {_place(selected)} 0x{int(value, 16):x}", file=sys.stderr, flush=True)
            case ["inl", "0xcfc"]:
                device, function, register = _place(selected)
                identity = FUNCTIONS.get((device, function), 0xFFFFFFFF)
                answer = f" 0x{identity if register == 0 else pci.get((device, function, register), 0):x}"
        print(f"OK{answer}", flush=True)


def _place(address: int) -> tuple[int, int, int]:
    return address >> 11 & 31, address >> 8 & 7, address & 0xFC


if __name__ == "__main__":
    main()
