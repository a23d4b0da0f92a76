"""TDREPORT: what the TDX module says about a TD, with a MAC that only the same platform can check.

Source: Intel TDX Module ABI Reference Specification: TDREPORT_STRUCT, REPORTMACSTRUCT, TEE_TCB_INFO and
TDINFO_STRUCT; `arch/x86/include/asm/shared/tdx.h` of Linux for the names of the attribute bits.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import ClassVar, Final

from tdxstack.abi.binary import Reader, exactly
from tdxstack.abi.fixed import pack, unpack
from tdxstack.errors import MalformedError

TDREPORT_SIZE: Final = 1024
REPORT_TYPE_TDX: Final = 0x81
REPORT_VERSIONS: Final = (0, 1)
"""REPORTTYPE.VERSION: 1 says that a service TD is or was bound and SERVTD_HASH counts."""

TD_ATTRIBUTE_DEBUG: Final = 1 << 0
TD_ATTRIBUTE_SEPT_VE_DISABLE: Final = 1 << 28
TD_ATTRIBUTE_MIGRATABLE: Final = 1 << 29
TD_ATTRIBUTE_PKS: Final = 1 << 30
TD_ATTRIBUTE_PERFMON: Final = 1 << 63
TD_UNTRUSTED_MASK: Final = 0xFF
"""ATTRIBUTES bits 7:0, the "TD under debug" group: if one is set, the host can look into the TD."""

TD_ATTRIBUTE_NAMES: Final[dict[int, str]] = {
    0: "DEBUG",
    4: "HGS_PLUS_PROF",
    5: "PERF_PROF",
    6: "PMT_PROF",
    16: "ICSSD",
    27: "LASS",
    28: "SEPT_VE_DISABLE",
    29: "MIGRATABLE",
    30: "PKS",
    31: "KL",
    62: "TPA",
    63: "PERFMON",
}
"""Bit number of TD ATTRIBUTES to its name."""

XFAM_NAMES: Final[dict[int, str]] = {
    0: "X87",
    1: "SSE",
    2: "AVX",
    3: "MPX_BNDREGS",
    4: "MPX_BNDCSR",
    5: "AVX512_OPMASK",
    6: "AVX512_ZMM_HI256",
    7: "AVX512_HI16_ZMM",
    8: "PT",
    9: "PKRU",
    10: "PASID",
    11: "CET_U",
    12: "CET_S",
    13: "HDC",
    14: "UINTR",
    15: "LBR",
    16: "HWP",
    17: "AMX_TILECFG",
    18: "AMX_TILEDATA",
    19: "APX",
}
"""Bit number of XFAM to the name of the state component (Intel SDM volume 1, section 13.1)."""

_MAC_LAYOUT = struct.Struct("<BBBB12s16s48s48s64s32s32s")
_TCB_LAYOUT = struct.Struct("<8s16s48s48sQ16s95s")
_TD_LAYOUT = struct.Struct("<QQ48s48s48s48s48s48s48s48s48s64s")


def td_attribute_names(attributes: int) -> list[str]:
    """The names of the bits set in a 64-bit TD ATTRIBUTES, lowest first; "BIT_n" where a bit has no name."""
    return _bit_names(attributes, TD_ATTRIBUTE_NAMES)


def xfam_names(xfam: int) -> list[str]:
    """The names of the bits set in a 64-bit XFAM, lowest first; "BIT_n" where a bit has no name."""
    return _bit_names(xfam, XFAM_NAMES)


def _bit_names(value: int, names: dict[int, str]) -> list[str]:
    found = []
    while value:
        bit = (value & -value).bit_length() - 1
        found.append(names.get(bit) or f"BIT_{bit}")
        value &= value - 1
    return found


@dataclass(frozen=True, slots=True)
class ReportMac:
    """REPORTMACSTRUCT, 256 bytes, little-endian. The MAC covers the first 224.

    ======  ====  ========================================================
    offset  size  field
    ======  ====  ========================================================
    0       1     REPORTTYPE.TYPE (0x81 = TDX)
    1       1     REPORTTYPE.SUBTYPE
    2       1     REPORTTYPE.VERSION (0, 1)
    3       1     REPORTTYPE reserved
    4       12    reserved
    16      16    CPUSVN
    32      48    SHA-384 of TEE_TCB_INFO
    80      48    SHA-384 of TDINFO
    128     64    REPORTDATA
    192     32    reserved
    224     32    MAC, HMAC-SHA-256 with a key that only this platform has
    ======  ====  ========================================================
    """

    SIZE: ClassVar[int] = 256

    report_type: int = REPORT_TYPE_TDX
    subtype: int = 0
    version: int = 0
    type_reserved: int = 0
    reserved1: bytes = bytes(12)
    cpusvn: bytes = bytes(16)
    tee_tcb_info_hash: bytes = bytes(48)
    tee_info_hash: bytes = bytes(48)
    report_data: bytes = bytes(64)
    reserved2: bytes = bytes(32)
    mac: bytes = bytes(32)

    @classmethod
    def parse(cls, data: bytes | memoryview) -> ReportMac:
        """Read exactly 256 bytes. Raises `MalformedError` on any other length."""
        return cls(*unpack(_MAC_LAYOUT, data, "REPORTMACSTRUCT"))

    def to_bytes(self) -> bytes:
        """The 256 bytes. Raises `MalformedError` if a field has the wrong size."""
        return pack(_MAC_LAYOUT, _mac_fields(self), "REPORTMACSTRUCT")

    def maced_bytes(self) -> bytes:
        """The 224 bytes that the MAC is computed over."""
        return self.to_bytes()[:224]


@dataclass(frozen=True, slots=True)
class TeeTcbInfo:
    """TEE_TCB_INFO, 239 bytes, little-endian: the TDX module that reports.

    ======  ====  ========================================================
    offset  size  field
    ======  ====  ========================================================
    0       8     VALID: bit i says that the 8 bytes at offset 8*i count
    8       16    TEE_TCB_SVN at the TD's launch
    24      48    MRSEAM
    72      48    MRSIGNERSEAM
    120     8     SEAM ATTRIBUTES
    128     16    TEE_TCB_SVN2, of the module that runs now (TDX 1.5)
    144     95    reserved
    ======  ====  ========================================================
    """

    SIZE: ClassVar[int] = 239

    valid: bytes = bytes(8)
    tee_tcb_svn: bytes = bytes(16)
    mrseam: bytes = bytes(48)
    mrsignerseam: bytes = bytes(48)
    attributes: int = 0
    tee_tcb_svn2: bytes = bytes(16)
    reserved: bytes = bytes(95)

    @classmethod
    def parse(cls, data: bytes | memoryview) -> TeeTcbInfo:
        """Read exactly 239 bytes. Raises `MalformedError` on any other length."""
        return cls(*unpack(_TCB_LAYOUT, data, "TEE_TCB_INFO"))

    def to_bytes(self) -> bytes:
        """The 239 bytes. Raises `MalformedError` if a field has the wrong size."""
        return pack(_TCB_LAYOUT, _tcb_fields(self), "TEE_TCB_INFO")


@dataclass(frozen=True, slots=True)
class TdInfo:
    """TDINFO_STRUCT, 512 bytes, little-endian: the TD itself.

    ======  ====  ========================================================
    offset  size  field
    ======  ====  ========================================================
    0       8     ATTRIBUTES
    8       8     XFAM
    16      48    MRTD
    64      48    MRCONFIGID
    112     48    MROWNER
    160     48    MROWNERCONFIG
    208     192   RTMR0 to RTMR3, 48 each
    400     48    SERVTD_HASH
    448     64    reserved
    ======  ====  ========================================================
    """

    SIZE: ClassVar[int] = 512

    attributes: int = 0
    xfam: int = 0
    mrtd: bytes = bytes(48)
    mrconfigid: bytes = bytes(48)
    mrowner: bytes = bytes(48)
    mrownerconfig: bytes = bytes(48)
    rtmrs: tuple[bytes, bytes, bytes, bytes] = (bytes(48), bytes(48), bytes(48), bytes(48))
    servtd_hash: bytes = bytes(48)
    reserved: bytes = bytes(64)

    @classmethod
    def parse(cls, data: bytes | memoryview) -> TdInfo:
        """Read exactly 512 bytes. Raises `MalformedError` on any other length."""
        attributes, xfam, mrtd, configid, owner, ownerconfig, *rtmrs, servtd, reserved = unpack(
            _TD_LAYOUT, data, "TDINFO"
        )
        return cls(
            attributes=attributes,
            xfam=xfam,
            mrtd=mrtd,
            mrconfigid=configid,
            mrowner=owner,
            mrownerconfig=ownerconfig,
            rtmrs=(rtmrs[0], rtmrs[1], rtmrs[2], rtmrs[3]),
            servtd_hash=servtd,
            reserved=reserved,
        )

    def to_bytes(self) -> bytes:
        """The 512 bytes. Raises `MalformedError` if a field has the wrong size."""
        values = (
            self.attributes,
            self.xfam,
            self.mrtd,
            self.mrconfigid,
            self.mrowner,
            self.mrownerconfig,
            *self.rtmrs,
            self.servtd_hash,
            self.reserved,
        )
        return pack(_TD_LAYOUT, values, "TDINFO")


@dataclass(frozen=True, slots=True)
class TdReport:
    """TDREPORT_STRUCT, 1024 bytes: REPORTMACSTRUCT (256), TEE_TCB_INFO (239), reserved (17), TDINFO (512)."""

    mac: ReportMac
    tcb_info: TeeTcbInfo
    td_info: TdInfo
    reserved: bytes = bytes(17)

    @classmethod
    def parse(cls, data: bytes | memoryview) -> TdReport:
        """Read exactly 1024 bytes of report type 0x81, version 0 or 1. Raises `MalformedError` otherwise."""
        reader = Reader(exactly(bytes(data), TDREPORT_SIZE, "TDREPORT"), "TDREPORT")
        mac = ReportMac.parse(reader.take(ReportMac.SIZE, "REPORTMACSTRUCT"))
        if mac.report_type != REPORT_TYPE_TDX:
            raise MalformedError(
                f"TDREPORT: report type at offset 0 is {mac.report_type:#x}, not {REPORT_TYPE_TDX:#x}",
                hint="this is not a TDREPORT; an SGX REPORT has type 0",
            )
        if mac.version not in REPORT_VERSIONS:
            raise MalformedError(
                f"TDREPORT: version at offset 2 is {mac.version}, not 0 or 1",
                hint="a newer TDX module may have made it; tdxstack knows versions 0 and 1",
            )
        tcb_info = TeeTcbInfo.parse(reader.take(TeeTcbInfo.SIZE, "TEE_TCB_INFO"))
        reserved = reader.take(17, "reserved")
        return cls(mac, tcb_info, TdInfo.parse(reader.take(TdInfo.SIZE, "TDINFO")), reserved)

    @property
    def report_data(self) -> bytes:
        """The 64 bytes that the TD asked to have reported."""
        return self.mac.report_data

    def tcb_info_binds(self) -> bool:
        """Whether TEE_TCB_INFO has the SHA-384 that REPORTMACSTRUCT carries."""
        return hashlib.sha384(self.tcb_info.to_bytes()).digest() == self.mac.tee_tcb_info_hash

    def td_info_binds(self) -> bool:
        """Whether TDINFO has the SHA-384 that REPORTMACSTRUCT carries."""
        return hashlib.sha384(self.td_info.to_bytes()).digest() == self.mac.tee_info_hash

    def hashes_bind(self) -> bool:
        """Whether both structures have the hashes that REPORTMACSTRUCT carries (and its MAC covers)."""
        return self.tcb_info_binds() and self.td_info_binds()

    def to_bytes(self) -> bytes:
        """The 1024 bytes. Raises `MalformedError` if a field has the wrong size."""
        reserved = exactly(self.reserved, 17, "TDREPORT: reserved")
        return self.mac.to_bytes() + self.tcb_info.to_bytes() + reserved + self.td_info.to_bytes()


_mac_fields = attrgetter(*(field.name for field in fields(ReportMac)))
_tcb_fields = attrgetter(*(field.name for field in fields(TeeTcbInfo)))
