"""DCAP quotes, versions 3, 4 and 5, with ECDSA-P256 signatures: SGX enclaves and TDs.

Source: Intel TDX DCAP Quoting Library API, appendix A; Intel SGX ECDSA QuoteLibReference DCAP API, appendix
A; `QuoteConstants.h` and `QuoteStructures.h` of Intel's Quote Verification Library for body types 3 and 4.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, ClassVar, Final, Self

from tdxstack.abi.binary import Reader, exactly
from tdxstack.abi.fixed import pack, unpack
from tdxstack.abi.sgx_report import SGX_REPORT_BODY_SIZE, SgxReportBody
from tdxstack.abi.tdreport import TdReport
from tdxstack.errors import MalformedError

QUOTE_VERSIONS: Final = (3, 4, 5)
TEE_TYPE_SGX: Final = 0x00
TEE_TYPE_TDX: Final = 0x81
ATTESTATION_KEY_ECDSA_P256: Final = 2
INTEL_QE_VENDOR_ID: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")

CERTIFICATION_PPID_PLAIN: Final = 1
CERTIFICATION_PPID_RSA2048: Final = 2
CERTIFICATION_PPID_RSA3072: Final = 3
CERTIFICATION_PCK_LEAF: Final = 4
CERTIFICATION_PCK_CHAIN: Final = 5
CERTIFICATION_QE_REPORT: Final = 6
CERTIFICATION_PLATFORM_MANIFEST: Final = 7

CERTIFICATION_NAMES: Final[dict[int, str]] = {
    CERTIFICATION_PPID_PLAIN: "PPID in plain text, CPUSVN, PCESVN, PCE-ID",
    CERTIFICATION_PPID_RSA2048: "PPID encrypted with RSA-2048, CPUSVN, PCESVN, PCE-ID",
    CERTIFICATION_PPID_RSA3072: "PPID encrypted with RSA-3072, CPUSVN, PCESVN, PCE-ID",
    CERTIFICATION_PCK_LEAF: "PCK certificate",
    CERTIFICATION_PCK_CHAIN: "PCK certificate chain",
    CERTIFICATION_QE_REPORT: "QE report certification data",
    CERTIFICATION_PLATFORM_MANIFEST: "platform manifest",
}

_HEADER_LAYOUT = struct.Struct("<HHI4s16s20s")
_TD10_FORMAT = "<16s48s48sQQQ48s48s48s48s48s48s48s48s64s"
_TD10_LAYOUT = struct.Struct(_TD10_FORMAT)
_TD15_LAYOUT = struct.Struct(_TD10_FORMAT + "16s48s")
_TD15EX_LAYOUT = struct.Struct(_TD10_FORMAT + "16s48s" + "B32s48s48sQ16s16s12s48sQ")

_DICE_THRESHOLD = 8192
_CBOR_OPENINGS = (0x84, 0xD2, 0xD8)  # array of four, COSE_Sign1 tag 18, one-byte tags (61 is CWT)


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


@dataclass(frozen=True, slots=True)
class TdBody10:
    """TD report 1.0: 584 bytes, little-endian; the body of version 4, and body type 2 of version 5.

    ======  ====  =================================
    offset  size  field
    ======  ====  =================================
    0       16    TEE_TCB_SVN
    16      48    MRSEAM
    64      48    MRSIGNERSEAM
    112     8     SEAM ATTRIBUTES
    120     8     TD ATTRIBUTES
    128     8     XFAM
    136     48    MRTD
    184     48    MRCONFIGID
    232     48    MROWNER
    280     48    MROWNERCONFIG
    328     192   RTMR0 to RTMR3, 48 each
    520     64    REPORTDATA
    ======  ====  =================================
    """

    NAME: ClassVar[str] = "TD report 1.0"
    BODY_TYPE: ClassVar[int] = 2
    SIZE: ClassVar[int] = 584
    LAYOUT: ClassVar[struct.Struct] = _TD10_LAYOUT

    tee_tcb_svn: bytes = bytes(16)
    mrseam: bytes = bytes(48)
    mrsignerseam: bytes = bytes(48)
    seam_attributes: int = 0
    td_attributes: int = 0
    xfam: int = 0
    mrtd: bytes = bytes(48)
    mrconfigid: bytes = bytes(48)
    mrowner: bytes = bytes(48)
    mrownerconfig: bytes = bytes(48)
    rtmr0: bytes = bytes(48)
    rtmr1: bytes = bytes(48)
    rtmr2: bytes = bytes(48)
    rtmr3: bytes = bytes(48)
    report_data: bytes = bytes(64)

    @property
    def rtmrs(self) -> tuple[bytes, bytes, bytes, bytes]:
        """RTMR0 to RTMR3."""
        return self.rtmr0, self.rtmr1, self.rtmr2, self.rtmr3

    @classmethod
    def parse(cls, data: bytes | memoryview) -> Self:
        """Read exactly `SIZE` bytes. Raises `MalformedError` on any other length."""
        return cls(*unpack(cls.LAYOUT, data, cls.NAME))

    @classmethod
    def of_report(cls, report: TdReport) -> Self:
        """The quote body that says what `report` says."""
        return cls(*_report_values(report))

    def to_bytes(self) -> bytes:
        """The `SIZE` bytes. Raises `MalformedError` if a field has the wrong size."""
        return pack(self.LAYOUT, _TD_FIELDS[self.BODY_TYPE](self), self.NAME)


@dataclass(frozen=True, slots=True)
class TdBody15(TdBody10):
    """TD report 1.5: body type 3, 648 bytes. TDX 1.0's, then:

    ======  ====  ==============================================
    offset  size  field
    ======  ====  ==============================================
    584     16    TEE_TCB_SVN2, of the TDX module that runs now
    600     48    MRSERVICETD
    ======  ====  ==============================================
    """

    NAME: ClassVar[str] = "TD report 1.5"
    BODY_TYPE: ClassVar[int] = 3
    SIZE: ClassVar[int] = 648
    LAYOUT: ClassVar[struct.Struct] = _TD15_LAYOUT

    tee_tcb_svn2: bytes = bytes(16)
    mrservicetd: bytes = bytes(48)

    @classmethod
    def of_report(cls, report: TdReport) -> Self:
        """The quote body that says what `report` says."""
        return cls(*(*_report_values(report), report.tcb_info.tee_tcb_svn2, report.td_info.servtd_hash))


@dataclass(frozen=True, slots=True)
class TdBody15Ex(TdBody15):
    """TD report 1.5 extended: body type 4, 885 bytes. TDX 1.5's, then:

    ======  ====  ================================
    offset  size  field
    ======  ====  ================================
    648     1     VM id
    649     32    TD id
    681     48    device information
    729     48    initial service TD hash
    777     8     initial service TD attributes
    785     16    initial CPUSVN
    801     16    initial TEE_TCB_SVN
    817     12    initial TEE FMSPC
    829     48    current service TD hash
    877     8     current service TD attributes
    ======  ====  ================================
    """

    NAME: ClassVar[str] = "TD report 1.5 extended"
    BODY_TYPE: ClassVar[int] = 4
    SIZE: ClassVar[int] = 885
    LAYOUT: ClassVar[struct.Struct] = _TD15EX_LAYOUT

    vm_id: int = 0
    td_id: bytes = bytes(32)
    device_info: bytes = bytes(48)
    initial_servtd_hash: bytes = bytes(48)
    initial_servtd_attributes: int = 0
    initial_cpusvn: bytes = bytes(16)
    initial_tee_tcb_svn: bytes = bytes(16)
    initial_tee_fmspc: bytes = bytes(12)
    current_servtd_hash: bytes = bytes(48)
    current_servtd_attributes: int = 0


QuoteBody = SgxReportBody | TdBody10
"""What a quote is about. `TdBody15` and `TdBody15Ex` are `TdBody10` with more."""

_BODIES: Final[dict[int, type[SgxReportBody] | type[TdBody10]]] = {
    body.BODY_TYPE: body for body in (SgxReportBody, TdBody10, TdBody15, TdBody15Ex)
}


@dataclass(frozen=True, slots=True)
class CertificationData:
    """How to check the QE report: u16 type, u32 size, data. `CERTIFICATION_NAMES` names the types."""

    type: int
    data: bytes

    @classmethod
    def read(cls, reader: Reader) -> CertificationData:
        """Read one from `reader`. Raises `MalformedError` if it is cut short."""
        kind = reader.u16("certification data type")
        return cls(kind, reader.take(reader.u32("certification data size"), "certification data"))

    def to_bytes(self) -> bytes:
        """6 bytes of type and size, little-endian, then the data."""
        return struct.pack("<HI", self.type, len(self.data)) + self.data


@dataclass(frozen=True, slots=True)
class QuoteSignature:
    """The ECDSA-P256 signature section. Sizes and types are little-endian, keys and signatures big-endian.

    Signature 64 (r, s), attestation public key 64 (x, y), then in version 4 and 5 a certification data header
    of type 6 whose data is the rest; in every version: QE report 384, its signature 64, u16 size and QE
    authentication data, and the certification data (types 1 to 5, 7).
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
            outer = CertificationData.read(reader)
            reader.end()
            if outer.type != CERTIFICATION_QE_REPORT:
                raise MalformedError(
                    f"quote signature: certification data of type {outer.type} at offset 128, not 6",
                    hint="version 4 and 5 quotes carry QE report certification data there",
                )
            reader = Reader(outer.data, "QE report certification data")
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

    `trailing` is what the buffer holds beyond the quote (zero padding, usually); nothing vouches for it.
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
        section = reader.take(reader.u32("signature size"), "signature section")
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


def _report_values(report: TdReport) -> tuple[Any, ...]:
    """The fields of `TdBody10`, in its order."""
    tcb, td = report.tcb_info, report.td_info
    return (
        tcb.tee_tcb_svn,
        tcb.mrseam,
        tcb.mrsignerseam,
        tcb.attributes,
        td.attributes,
        td.xfam,
        td.mrtd,
        td.mrconfigid,
        td.mrowner,
        td.mrownerconfig,
        *td.rtmrs,
        report.report_data,
    )


_header_fields = attrgetter(*(field.name for field in fields(QuoteHeader)))
_TD_FIELDS: Final = {
    body.BODY_TYPE: attrgetter(*(field.name for field in fields(body)))
    for body in (TdBody10, TdBody15, TdBody15Ex)
}
