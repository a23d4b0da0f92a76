"""SGX REPORT body: what an enclave, the TD quoting enclave among them, is reported to be."""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import ClassVar, Final

from tdxstack.abi.fixed import pack, unpack

SGX_REPORT_BODY_SIZE: Final = 384

_LAYOUT = struct.Struct("<16sI12s16sQQ32s32s32s32s64sHHH42s16s64s")

SGX_FLAG_DEBUG: Final = 1 << 1
"""ATTRIBUTES.FLAGS bit 1: the enclave can be debugged, so its secrets are not protected."""


@dataclass(frozen=True, slots=True)
class SgxReportBody:
    """384 bytes, little-endian (Intel SDM volume 3D, REPORT; DCAP `sgx_report_body_t`).

    ======  ====  =========================================================
    offset  size  field
    ======  ====  =========================================================
    0       16    CPUSVN
    16      4     MISCSELECT
    20      12    reserved
    32      16    ISVEXTPRODID
    48      8     ATTRIBUTES.FLAGS
    56      8     ATTRIBUTES.XFRM
    64      32    MRENCLAVE
    96      32    reserved
    128     32    MRSIGNER
    160     32    reserved
    192     64    CONFIGID
    256     2     ISVPRODID
    258     2     ISVSVN
    260     2     CONFIGSVN
    262     42    reserved
    304     16    ISVFAMILYID
    320     64    REPORTDATA
    ======  ====  =========================================================
    """

    NAME: ClassVar[str] = "SGX report body"
    BODY_TYPE: ClassVar[int] = 1
    SIZE: ClassVar[int] = SGX_REPORT_BODY_SIZE

    cpusvn: bytes = bytes(16)
    miscselect: int = 0
    reserved1: bytes = bytes(12)
    isv_ext_prod_id: bytes = bytes(16)
    flags: int = 0
    xfrm: int = 0
    mrenclave: bytes = bytes(32)
    reserved2: bytes = bytes(32)
    mrsigner: bytes = bytes(32)
    reserved3: bytes = bytes(32)
    config_id: bytes = bytes(64)
    isv_prod_id: int = 0
    isv_svn: int = 0
    config_svn: int = 0
    reserved4: bytes = bytes(42)
    isv_family_id: bytes = bytes(16)
    report_data: bytes = bytes(64)

    @property
    def attributes(self) -> bytes:
        """FLAGS and XFRM as the 16 bytes that identities and their masks are written over."""
        return self.flags.to_bytes(8, "little") + self.xfrm.to_bytes(8, "little")

    @classmethod
    def parse(cls, data: bytes | memoryview) -> SgxReportBody:
        """Read exactly 384 bytes. Raises `MalformedError` on any other length."""
        return cls(*unpack(_LAYOUT, data, cls.NAME))

    def to_bytes(self) -> bytes:
        """The 384 bytes. Raises `MalformedError` if a field has the wrong size."""
        return pack(_LAYOUT, _fields(self), self.NAME)


_fields = attrgetter(*(field.name for field in fields(SgxReportBody)))
