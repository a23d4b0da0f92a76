"""What a quote says about a TD: the report bodies of TDX 1.0, 1.5 and 1.5 extended.

Source: Intel TDX DCAP Quoting Library API, appendix A; `QuoteConstants.h` and `QuoteStructures.h` of Intel's
Quote Verification Library for body types 3 and 4.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, ClassVar, Final, Self

from tdxstack.abi.fixed import pack, unpack
from tdxstack.abi.tdreport import TdReport

_TD10_FORMAT = "<16s48s48sQQQ48s48s48s48s48s48s48s48s64s"
_TD10_LAYOUT = struct.Struct(_TD10_FORMAT)
_TD15_LAYOUT = struct.Struct(_TD10_FORMAT + "16s48s")
_TD15EX_LAYOUT = struct.Struct(_TD10_FORMAT + "16s48s" + "B32s48s48sQ16s16s12s48sQ")


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


_TD_FIELDS: Final = {
    body.BODY_TYPE: attrgetter(*(field.name for field in fields(body)))
    for body in (TdBody10, TdBody15, TdBody15Ex)
}
