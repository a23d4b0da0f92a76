"""PE images as firmware measures them: the Authenticode digest, computed as edk2 computes it.

Sources: Microsoft PE format specification; edk2 SecurityPkg/Library/DxeTpm2MeasureBootLib and
OvmfPkg/Tcg/TdTcg2Dxe/MeasureBootPeCoff.c. All integers are little-endian.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tdxstack.abi.binary import Reader
from tdxstack.errors import MalformedError

DOS_HEADER_SIZE = 0x40
FILE_HEADER_SIZE = 24
"""Of the PE signature with the COFF header."""
SYMBOL_SIZE = 18
MAX_NAME, MAX_SECTIONS = 64, 4096
MAGIC_PE32, MAGIC_PE32_PLUS = 0x10B, 0x20B
CHECKSUM_OFFSET = 64
HEADERS_SIZE_OFFSET = 60
DIRECTORY_COUNT_OFFSET = {MAGIC_PE32: 92, MAGIC_PE32_PLUS: 108}
SECURITY_DIRECTORY = 4
CERTIFICATE_HEADER_SIZE = 8
CERTIFICATE_PKCS7 = 0x0002
MAX_CERTIFICATES = 64
"""Entries of a certificate table."""

_LONG_NAME = re.compile(r"/\d{1,7}")
"""The name of a section with more than 8 letters: where it stands in the string table behind the symbols."""

HINT = "give the EFI program as it is on the disk"


@dataclass(frozen=True, slots=True)
class Section:
    """One section: its name, and where its bytes lie in the file."""

    name: str
    virtual_size: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Image:
    """The parts of a PE file that measuring and verifying it needs; offsets are in bytes in the file."""

    data: bytes
    checksum: int
    headers_size: int
    security_entry: int | None
    """Where the security directory's entry lies; None where the header has none."""
    certificates: tuple[int, int]
    """Offset and size of the certificate table; (0, 0) without one."""
    sections: tuple[Section, ...]

    @classmethod
    def parse(cls, data: bytes) -> Image:
        """Read the headers. Raises `MalformedError` for what is no PE file, or one that edk2 refuses."""
        start = int.from_bytes(data[0x3C:DOS_HEADER_SIZE], "little") if data[:2] == b"MZ" else 0
        reader = Reader(memoryview(data)[min(start, len(data)) :], "PE image")
        if reader.take(4, "signature") != b"PE\0\0":
            raise _bad("it has no PE signature")
        reader.u16("machine")
        count = reader.u16("number of sections")
        if count > MAX_SECTIONS:
            raise _bad(f"it has {count} sections, more than {MAX_SECTIONS}")
        reader.take(4, "time")
        names = reader.u32("symbol table") + SYMBOL_SIZE * reader.u32("number of symbols")
        optional_size = reader.u16("size of the optional header")
        reader.u16("characteristics")
        optional = start + FILE_HEADER_SIZE
        header = Reader(reader.take(optional_size, "optional header"), "PE optional header")
        magic = header.u16("magic")
        if magic not in DIRECTORY_COUNT_OFFSET:
            raise _bad(f"its optional header has the magic 0x{magic:x}")
        header.take(HEADERS_SIZE_OFFSET - 2, "fields")
        headers_size = header.u32("size of headers")
        header.take(DIRECTORY_COUNT_OFFSET[magic] - HEADERS_SIZE_OFFSET - 4, "fields")
        directories = header.u32("number of directories")
        entry, table = None, (0, 0)
        if directories > SECURITY_DIRECTORY:
            header.take(8 * SECURITY_DIRECTORY, "directories")
            entry = optional + header.offset
            table = (header.u32("certificate table"), header.u32("size of certificate table"))
        sections = tuple(_section(reader, data, names) for _ in range(count))
        image = cls(data, optional + CHECKSUM_OFFSET, headers_size, entry, table, sections)
        image._check()
        return image

    def _check(self) -> None:
        end = self.security_entry + 8 if self.security_entry is not None else self.checksum + 4
        if not end <= self.headers_size <= len(self.data):
            raise _bad(f"its headers claim 0x{self.headers_size:x} of 0x{len(self.data):x} bytes")
        for section in self.sections:
            if section.offset + section.size > len(self.data):
                raise _bad(f"section {section.name!r} leaves the file of 0x{len(self.data):x} bytes")
        hashed = self.headers_size + sum(section.size for section in self.sections)
        if hashed + self.certificates[1] > len(self.data):
            raise _bad("its headers, sections or certificates overlap")

    def section(self, name: str) -> bytes | None:
        """What a section holds in memory, as far as the file has it; None without a section of that name."""
        for section in self.sections:
            if section.name == name:
                size = min(section.size, section.virtual_size or section.size)
                return self.data[section.offset : section.offset + size]
        return None

    def digest(self, algorithm: str = "sha384") -> bytes:
        """The Authenticode digest."""
        return _hash(self, algorithm)

    def signatures(self) -> Iterator[bytes]:
        """The PKCS #7 signatures in the certificate table, in order, DER. Raises `MalformedError`."""
        offset, size = self.certificates
        at, end, left = offset, offset + size, MAX_CERTIFICATES
        if end > len(self.data):
            raise _bad("its certificate table leaves the file")
        while at + CERTIFICATE_HEADER_SIZE <= end:
            length = int.from_bytes(self.data[at : at + 4], "little")
            kind = int.from_bytes(self.data[at + 6 : at + 8], "little")
            if not CERTIFICATE_HEADER_SIZE <= length <= end - at:
                raise _bad(f"a certificate of {length} bytes does not fit into its table")
            left -= 1
            if left < 0:
                raise _bad(f"its certificate table has more than {MAX_CERTIFICATES} entries")
            if kind == CERTIFICATE_PKCS7:
                yield self.data[at + CERTIFICATE_HEADER_SIZE : at + length]
            at += -(-length // 8) * 8


def _hash(image: Image, algorithm: str) -> bytes:
    digest = hashlib.new(algorithm)
    data = memoryview(image.data)
    after_checksum = image.checksum + 4
    digest.update(data[: image.checksum])
    if image.security_entry is None:
        digest.update(data[after_checksum : image.headers_size])
    else:
        digest.update(data[after_checksum : image.security_entry])
        digest.update(data[image.security_entry + 8 : image.headers_size])
    hashed = image.headers_size
    for section in sorted(image.sections, key=lambda section: section.offset):
        digest.update(data[section.offset : section.offset + section.size])
        hashed += section.size
    # What lies behind the sections counts too, up to the certificates. Nothing is padded.
    digest.update(data[hashed : len(image.data) - image.certificates[1]])
    return digest.digest()


def _section(reader: Reader, data: bytes, names: int) -> Section:
    name = reader.take(8, "section name").rstrip(b"\0").decode("latin-1")
    if _LONG_NAME.fullmatch(name):
        start = names + int(name[1:])
        name = data[start : start + MAX_NAME].partition(b"\0")[0].decode("latin-1")
    virtual_size = reader.u32("virtual size")
    reader.u32("virtual address")
    size, offset = reader.u32("size of raw data"), reader.u32("offset of raw data")
    reader.take(16, "section")
    return Section(name, virtual_size, offset if size else 0, size)


def _bad(problem: str) -> MalformedError:
    return MalformedError(f"PE image: {problem}", hint=HINT)
