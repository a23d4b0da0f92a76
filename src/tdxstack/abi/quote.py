"""DCAP quotes, versions 3, 4 and 5, with ECDSA-P256 signatures: SGX enclaves and TDs.

Source: Intel TDX DCAP Quoting Library API, appendix A; Intel SGX ECDSA QuoteLibReference DCAP API, appendix
A; `QuoteConstants.h` and `QuoteStructures.h` of Intel's Quote Verification Library for version 5.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import ClassVar, Final

from tdxstack.abi.binary import Reader, exactly
from tdxstack.abi.certification import (
    CERTIFICATION_NAMES,
    CERTIFICATION_PCK_CHAIN,
    CERTIFICATION_PCK_LEAF,
    CERTIFICATION_PLATFORM_MANIFEST,
    CERTIFICATION_PPID_PLAIN,
    CERTIFICATION_PPID_RSA2048,
    CERTIFICATION_PPID_RSA3072,
    CERTIFICATION_QE_REPORT,
    CertificationData,
    PlatformIdentity,
)
from tdxstack.abi.fixed import pack, unpack
from tdxstack.abi.sgx_report import SGX_REPORT_BODY_SIZE, SgxReportBody
from tdxstack.abi.td_body import TdBody10, TdBody15, TdBody15Ex
from tdxstack.errors import MalformedError

__all__ = [
    "ATTESTATION_KEY_ECDSA_P256",
    "CERTIFICATION_NAMES",
    "CERTIFICATION_PCK_CHAIN",
    "CERTIFICATION_PCK_LEAF",
    "CERTIFICATION_PLATFORM_MANIFEST",
    "CERTIFICATION_PPID_PLAIN",
    "CERTIFICATION_PPID_RSA2048",
    "CERTIFICATION_PPID_RSA3072",
    "CERTIFICATION_QE_REPORT",
    "CertificationData",
    "INTEL_QE_VENDOR_ID",
    "PlatformIdentity",
    "QUOTE_VERSIONS",
    "Quote",
    "QuoteBody",
    "QuoteHeader",
    "QuoteSignature",
    "TEE_TYPE_SGX",
    "TEE_TYPE_TDX",
    "TdBody10",
    "TdBody15",
    "TdBody15Ex",
    "refuse_dice",
]
"""A quote's parts are used together with it, wherever they are defined."""

QUOTE_VERSIONS: Final = (3, 4, 5)
TEE_TYPE_SGX: Final = 0x00
TEE_TYPE_TDX: Final = 0x81
ATTESTATION_KEY_ECDSA_P256: Final = 2
INTEL_QE_VENDOR_ID: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")

_HEADER_LAYOUT = struct.Struct("<HHI4s16s20s")
_DICE_THRESHOLD = 8192
_CBOR_OPENINGS = range(0x80, 0xDC)
"""First bytes of CBOR arrays, maps and tags: a CWT is tag 61 (0xd8), COSE_Sign1 tag 18 (0xd2) or an array."""


@dataclass(frozen=True, slots=True)
class QuoteHeader:
    """48 bytes, little-endian.

    ======  ====  ===============================================================
    offset  size  field
    ======  ====  ===============================================================
    0       2     version (3, 4, 5)
    2       2     attestation key type (2 = ECDSA-P256)
    4       4     TEE type (0 = SGX, 0x81 = TDX)
    8       4     reserved; with SGX: QE SVN (2), PCE SVN (2)
    12      16    QE vendor id
    28      20    user data; Intel's QE puts its 16-byte QE-ID first
    ======  ====  ===============================================================
    """

    SIZE: ClassVar[int] = 48

    version: int = 4
    attestation_key_type: int = ATTESTATION_KEY_ECDSA_P256
    tee_type: int = TEE_TYPE_TDX
    reserved: bytes = bytes(4)
    qe_vendor_id: bytes = INTEL_QE_VENDOR_ID
    user_data: bytes = bytes(20)

    @classmethod
    def parse(cls, data: bytes | memoryview) -> QuoteHeader:
        """Read exactly 48 bytes; the values are not judged. Raises `MalformedError` on any other length."""
        return cls(*unpack(_HEADER_LAYOUT, data, "quote header"))

    def to_bytes(self) -> bytes:
        """The 48 bytes. Raises `MalformedError` if a field has the wrong size."""
        return pack(_HEADER_LAYOUT, _header_fields(self), "quote header")


QuoteBody = SgxReportBody | TdBody10
"""What a quote is about. `TdBody15` and `TdBody15Ex` are `TdBody10` with more."""

_BODIES: Final[dict[int, type[SgxReportBody] | type[TdBody10]]] = {
    body.BODY_TYPE: body for body in (SgxReportBody, TdBody10, TdBody15, TdBody15Ex)
}


@dataclass(frozen=True, slots=True)
class QuoteSignature:
    """The ECDSA-P256 signature section. Sizes and types are little-endian, keys and signatures big-endian.

    Signature 64 (r, s), attestation public key 64 (x, y), then in version 4 and 5 a certification data header
    of type 6 whose data is the rest; in every version: QE report 384, its signature 64, u16 size and QE
    authentication data, and the certification data (types 1 to 5, 7), which says where the PCK is.
    """

    signature: bytes
    attestation_key: bytes
    qe_report: SgxReportBody
    qe_report_signature: bytes
    qe_auth_data: bytes
    certification: CertificationData

    @classmethod
    def parse(cls, data: bytes | memoryview, version: int) -> QuoteSignature:
        """Read the whole of `data`, as in a quote of `version`. Raises `MalformedError`."""
        reader = Reader(data, "quote signature")
        signature = reader.take(64, "signature")
        key = reader.take(64, "attestation key")
        if version >= 4:
            outer_type = reader.u16("certification data type")
            outer = reader.view(reader.u32("certification data size"), "certification data")
            reader.end()
            if outer_type != CERTIFICATION_QE_REPORT:
                raise MalformedError(
                    f"quote signature: certification data of type {outer_type} at offset 128, not 6",
                    hint="version 4 and 5 quotes carry QE report certification data there",
                )
            reader = Reader(outer, "QE report certification data")
        report = SgxReportBody.parse(reader.take(SGX_REPORT_BODY_SIZE, "QE report"))
        report_signature = reader.take(64, "QE report signature")
        auth_data = reader.take(reader.u16("QE authentication data size"), "QE authentication data")
        certification = CertificationData.read(reader)
        reader.end()
        return cls(signature, key, report, report_signature, auth_data, certification)

    def to_bytes(self, version: int) -> bytes:
        """The section as it stands in a quote of `version`. Raises `MalformedError` on wrong sizes."""
        signature = exactly(self.signature, 64, "quote signature") + exactly(
            self.attestation_key, 64, "attestation key"
        )
        inner = (
            self.qe_report.to_bytes()
            + exactly(self.qe_report_signature, 64, "QE report signature")
            + struct.pack("<H", len(self.qe_auth_data))
            + self.qe_auth_data
            + self.certification.to_bytes()
        )
        if version >= 4:
            inner = CertificationData(CERTIFICATION_QE_REPORT, inner).to_bytes()
        return signature + inner


@dataclass(frozen=True, slots=True)
class Quote:
    """Header 48; in version 5 u16 body type, u32 body size; body; u32 signature size; signature section.

    `trailing` is what the buffer holds beyond the quote, nothing or zero padding in all that is known; it is
    not part of the quote and nothing vouches for it.
    """

    header: QuoteHeader
    body: QuoteBody
    signature: QuoteSignature
    trailing: bytes = b""

    @classmethod
    def parse(cls, data: bytes | memoryview) -> Quote:
        """Read the quote of version 3, 4 or 5 that starts `data`. Raises `MalformedError` otherwise."""
        refuse_dice(data)
        reader = Reader(data, "quote")
        header = QuoteHeader.parse(reader.take(QuoteHeader.SIZE, "header"))
        kind = _body_type(header, reader)
        body = kind.parse(reader.take(kind.SIZE, kind.NAME))
        section = reader.view(reader.u32("signature size"), "signature section")
        return cls(header, body, QuoteSignature.parse(section, header.version), reader.rest())

    @property
    def signed_bytes(self) -> bytes:
        """What the attestation key signs: everything before the signature size."""
        body = self.body.to_bytes()
        if self.header.version >= 5:
            body = struct.pack("<HI", self.body.BODY_TYPE, len(body)) + body
        return self.header.to_bytes() + body

    def to_bytes(self) -> bytes:
        """The quote and what trails it. Raises `MalformedError` if a field has the wrong size."""
        section = self.signature.to_bytes(self.header.version)
        return self.signed_bytes + struct.pack("<I", len(section)) + section + self.trailing


def refuse_dice(data: bytes | memoryview) -> None:
    """Raise `MalformedError` for a DICE-based quote (a CBOR Web Token), which tdxstack does not read.

    Linux's tdx_guest driver documents that quotes larger than 8 KiB are of this kind; they start as CBOR
    does, while the other kinds start with a small version number.
    """
    if len(data) > _DICE_THRESHOLD and memoryview(data)[0] in _CBOR_OPENINGS:
        raise MalformedError(
            f"quote of {len(data)} bytes starts with CBOR byte {memoryview(data)[0]:#x}: a DICE quote (CWT)",
            hint="tdxstack reads ECDSA quotes of version 3, 4 and 5; ask the platform for one of those",
        )


def _body_type(header: QuoteHeader, reader: Reader) -> type[SgxReportBody] | type[TdBody10]:
    if header.version not in QUOTE_VERSIONS:
        raise MalformedError(
            f"quote: version at offset 0 is {header.version}, not 3, 4 or 5",
            hint="this is not a DCAP quote, or one of a newer version",
        )
    if header.attestation_key_type != ATTESTATION_KEY_ECDSA_P256:
        raise MalformedError(
            f"quote: attestation key type at offset 2 is {header.attestation_key_type}, not 2",
            hint="only ECDSA-P256 quotes are supported",
        )
    if header.tee_type not in (TEE_TYPE_SGX, TEE_TYPE_TDX):
        raise MalformedError(
            f"quote: TEE type at offset 4 is {header.tee_type:#x}, not 0 (SGX) or 0x81 (TDX)",
            hint="this is not a quote of an enclave or a TD",
        )
    is_td = header.tee_type == TEE_TYPE_TDX
    if header.version < 5:
        if header.version == 3 and is_td:
            raise MalformedError(
                "quote: version 3 with TEE type 0x81", hint="version 3 is for SGX; TDs have version 4 and 5"
            )
        return TdBody10 if is_td else SgxReportBody
    body_type = reader.u16("body type")
    size = reader.u32("body size")
    kind = _BODIES.get(body_type)
    if kind is None or size != kind.SIZE or (kind is SgxReportBody) is is_td:
        raise MalformedError(
            f"quote: body type {body_type} at offset 48 of {size} bytes, with TEE type {header.tee_type:#x}",
            hint="known: 1 (SGX, 384 bytes), 2 (TD 1.0, 584), 3 (TD 1.5, 648), 4 (TD 1.5 extended, 885)",
        )
    return kind


_header_fields = attrgetter(*(field.name for field in fields(QuoteHeader)))
