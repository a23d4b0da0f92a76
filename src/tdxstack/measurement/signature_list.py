"""Secure Boot's keys and hashes, as they stand in PK, KEK, db and dbx.

Source: UEFI specification 2.11, section 32.4.1. Integers are little-endian. Certificates are named and not
verified.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from tdxstack.abi.binary import Reader
from tdxstack.errors import MalformedError

X509 = UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
TYPE_NAMES = {
    UUID("c1c41626-504c-4092-aca9-41f936934328"): "hashes (SHA-256)",
    UUID("ff3e5307-9fd0-48c9-85f1-8ad56c701e01"): "hashes (SHA-384)",
    UUID("093e0fae-a6c4-4f50-9f1b-d41e2b89c19a"): "hashes (SHA-512)",
    UUID("826ca512-cf10-4ac9-b187-be01496631bd"): "hashes (SHA-1)",
    UUID("3c5766e8-269c-4e34-aa14-ed776e85b3b6"): "RSA-2048 keys",
    X509: "certificates",
    UUID("3bd2a492-96c0-4079-b420-fcf98ef103ed"): "revoked certificates (SHA-256)",
    UUID("7076876e-80c2-4ee6-aad2-28b349a6865b"): "revoked certificates (SHA-384)",
    UUID("446dbf63-2502-4cda-bcfa-2465d2b0fe9d"): "revoked certificates (SHA-512)",
}
OWNER_SIZE = 16
HEADER_SIZE = 28
MAX_SIGNATURES = 1 << 16
DAMAGED = "the event log is damaged"

_COMMON_NAME = b"\x06\x03\x55\x04\x03"
_ENCODINGS = {0x0C: "utf-8", 0x13: "latin-1", 0x14: "latin-1", 0x16: "latin-1", 0x1E: "utf-16-be"}


@dataclass(frozen=True, slots=True)
class SignatureList:
    """EFI_SIGNATURE_LIST.

    | size | field                                                        |
    |------|--------------------------------------------------------------|
    | 16   | type GUID                                                    |
    | 4    | size of the list                                             |
    | 4    | size of the header                                           |
    | 4    | size of each signature                                       |
    | n    | header                                                       |
    | n    | signatures: owner GUID (16), then a certificate or hash      |
    """

    type: UUID
    header: bytes
    signatures: tuple[tuple[UUID, bytes], ...]

    @property
    def type_name(self) -> str:
        """What the signatures are, or the type's GUID."""
        return TYPE_NAMES.get(self.type, str(self.type))


def parse_signature_lists(data: bytes) -> tuple[SignatureList, ...]:
    """The lists in the value of PK, KEK, db, dbx or dbt. Raises `MalformedError`."""
    reader = Reader(data, "signature lists")
    lists = []
    total = 0
    while reader.remaining:
        at = reader.offset
        kind = UUID(bytes_le=reader.take(16, "type"))
        size, header_size, each = (
            reader.u32("list size"),
            reader.u32("header size"),
            reader.u32("signature size"),
        )
        body = size - HEADER_SIZE - header_size
        total += max(body, 0) // max(each, 1)
        if body < 0 or each <= OWNER_SIZE or body % each or total > MAX_SIGNATURES:
            raise MalformedError(
                f"signature lists: the list at offset {at} has {size} bytes, signatures of {each}",
                hint=DAMAGED,
            )
        header = reader.take(header_size, "header")
        signatures = tuple(_signatures(reader, body // each, each - OWNER_SIZE))
        lists.append(SignatureList(kind, header, signatures))
    return tuple(lists)


def _signatures(reader: Reader, count: int, size: int) -> Iterator[tuple[UUID, bytes]]:
    for _ in range(count):
        yield UUID(bytes_le=reader.take(OWNER_SIZE, "owner")), reader.take(size, "signature")


def subject_name(certificate: bytes) -> str:
    """The subject's common name in a DER certificate, or "" where none is found."""
    try:
        reader = Reader(
            _element(Reader(_element(Reader(certificate, "certificate"))[1], "certificate"))[1], "TBS"
        )
        if reader.peek(1) == b"\xa0":
            _element(reader)  # version
        for _ in ("serial number", "signature algorithm", "issuer", "validity"):
            _element(reader)
        subject = _element(reader)[1]
        at = subject.rfind(_COMMON_NAME)
        tag, text = _element(Reader(subject[at + len(_COMMON_NAME) :], "common name"))
    except MalformedError:
        return ""
    return text.decode(_ENCODINGS.get(tag, "latin-1"), "replace") if at >= 0 else ""


def _element(reader: Reader) -> tuple[int, bytes]:
    """Tag and contents of the next DER element."""
    tag, size = reader.u8("tag"), reader.u8("length")
    if size >= 0x80:
        size = int.from_bytes(reader.take(size & 0x7F, "length"), "big")
    return tag, reader.take(size, "element")
