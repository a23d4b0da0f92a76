"""TDX-BLOB: a TDX module and its sigstruct in one file, for boot loaders and the kernel's update interface.

Sources: blob_structure.txt of Intel's TDX module binaries (version 1.0); struct tdx_image of Linux
arch/x86/virt/vmx/tdx/seamldr.c (version 2.0). All integers are little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from tdxstack.abi.binary import Reader
from tdxstack.errors import MalformedError

PAGE: Final = 4096
SIGNATURE: Final = b"TDX-BLOB"
VERSION_1: Final = 0x100
VERSION_2: Final = 0x200
MAX_MODULE_PAGES: Final = 496
"""Pages of a module that the SEAM loader takes."""
MAX_SIGSTRUCT_PAGES: Final = 4

_HINT: Final = "take a .blob file of Intel's TDX module binaries"


@dataclass(frozen=True, slots=True)
class TdxBlob:
    """A blob. The header fills 4096 bytes; sigstruct and module follow, each padded to whole pages.

    Version 1.0:

    ======  ====  =================================================
    offset  size  field
    ======  ====  =================================================
    0       2     version, 0x100
    2       2     checksum: all 16-bit words of the file sum up to 0
    4       4     offset of the module: 4096 + size of the sigstruct
    8       8     "TDX-BLOB"
    16      4     length of the file
    20      4076  reserved, 0
    ======  ====  =================================================

    Version 2.0:

    ======  ====  =================================================
    0       2     version, 0x200
    2       2     checksum; the kernel does not look at it
    4       8     "TDX-BLOB"
    12      4     pages of the sigstruct
    16      4     pages of the module
    20      4076  reserved, 0
    ======  ====  =================================================
    """

    version: int
    checksum: int
    sigstruct: bytes
    """With its padding."""
    module: bytes

    @classmethod
    def parse(cls, data: bytes | memoryview) -> TdxBlob:
        """Read a whole file. Raises `MalformedError` if it is not exactly one blob of a known version."""
        reader = Reader(data, "TDX-BLOB")
        size = reader.remaining
        version, checksum = reader.u16("version"), reader.u16("checksum")
        if version == VERSION_1:
            offset, magic, length = (
                reader.u32("module offset"),
                reader.take(8, "signature"),
                reader.u32("length"),
            )
            sigstruct_size, module_size = offset - PAGE, length - offset
        elif version == VERSION_2:
            magic = reader.take(8, "signature")
            sigstruct_size = PAGE * reader.u32("sigstruct pages")
            module_size = PAGE * reader.u32("module pages")
        else:
            raise MalformedError(f"TDX-BLOB: version 0x{version:x} is not 0x100 or 0x200", hint=_HINT)
        if magic != SIGNATURE:
            raise MalformedError(f"TDX-BLOB: signature is {magic!r}, not {SIGNATURE!r}", hint=_HINT)
        if any(reader.take(PAGE - reader.offset, "reserved")):
            raise MalformedError("TDX-BLOB: reserved bytes of the header are not 0", hint=_HINT)
        told = PAGE + sigstruct_size + module_size
        if size != told:
            raise MalformedError(
                f"TDX-BLOB: the header tells of {told} bytes, the file has {size}",
                hint=_HINT,
            )
        _check_size("sigstruct", sigstruct_size, MAX_SIGSTRUCT_PAGES)
        _check_size("module", module_size, MAX_MODULE_PAGES)
        return cls(
            version, checksum, reader.take(sigstruct_size, "sigstruct"), reader.take(module_size, "module")
        )

    @classmethod
    def join(cls, version: int, sigstruct: bytes, module: bytes) -> TdxBlob:
        """Make a blob of two files, padding the sigstruct, with the checksum that version 1.0 asks for.

        Raises `MalformedError` if a part is empty, too long, or the module is not whole pages.
        """
        padded = sigstruct + bytes(-len(sigstruct) % PAGE)
        _check_size("sigstruct", len(padded), MAX_SIGSTRUCT_PAGES)
        _check_size("module", len(module), MAX_MODULE_PAGES)
        blank = cls(version, 0, padded, module)
        return cls(version, -blank.word_sum() % (1 << 16), padded, module)

    def to_bytes(self) -> bytes:
        """The whole file."""
        if self.version == VERSION_1:
            offset = PAGE + len(self.sigstruct)
            fields = struct.pack("<I8sI", offset, SIGNATURE, offset + len(self.module))
        else:
            fields = struct.pack("<8sII", SIGNATURE, len(self.sigstruct) // PAGE, len(self.module) // PAGE)
        header = struct.pack("<HH", self.version, self.checksum) + fields
        return header + bytes(PAGE - len(header)) + self.sigstruct + self.module

    def word_sum(self) -> int:
        """The sum of all 16-bit words of the file, modulo 65536; 0 if the checksum is right."""
        data = self.to_bytes()
        words: tuple[int, ...] = struct.unpack(f"<{len(data) // 2}H", data)
        return sum(words) % (1 << 16)


def _check_size(part: str, size: int, most: int) -> None:
    if not 0 < size <= most * PAGE or size % PAGE:
        raise MalformedError(
            f"TDX-BLOB: the {part} has {size} bytes, not 1 to {most} pages of {PAGE}", hint=_HINT
        )
