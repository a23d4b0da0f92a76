"""Certification data: how the relying party finds the PCK that certifies a quoting enclave.

Sources: Intel SGX ECDSA QuoteLibReference DCAP API, appendix A.4; Intel TDX DCAP Quoting Library API,
appendix A.3.9; `sgx_quote_3.h` of Intel's DCAP for the identifying data of types 1 to 3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from tdxstack.abi.binary import Reader

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


_PPID_SIZES: Final = {
    CERTIFICATION_PPID_PLAIN: 16,
    CERTIFICATION_PPID_RSA2048: 256,
    CERTIFICATION_PPID_RSA3072: 384,
}


@dataclass(frozen=True, slots=True)
class PlatformIdentity:
    """Certification data of types 1 to 3: which PCK certificate to ask Intel's or another PCS for.

    ======  ====  ==============================================================
    offset  size  field
    ======  ====  ==============================================================
    0       n     PPID: 16 in plain text, or encrypted with RSA: 256 or 384
    n       16    CPUSVN
    n+16    2     PCE ISVSVN, little-endian
    n+18    2     PCE-ID, little-endian; absent in quotes of the first releases of Intel's library
    ======  ====  ==============================================================
    """

    ppid: bytes
    cpusvn: bytes
    pce_svn: int
    pce_id: int | None

    @classmethod
    def parse(cls, data: bytes | memoryview, ppid_size: int) -> PlatformIdentity:
        """Read exactly `ppid_size` + 20 (or 18) bytes. Raises `MalformedError` on any other length."""
        reader = Reader(data, "PPID certification data")
        ppid, cpusvn = reader.take(ppid_size, "PPID"), reader.take(16, "CPUSVN")
        pce_svn = reader.u16("PCE ISVSVN")
        pce_id = reader.u16("PCE-ID") if reader.remaining else None
        reader.end()
        return cls(ppid, cpusvn, pce_svn, pce_id)

    def to_bytes(self) -> bytes:
        """The PPID and 20 (or 18) bytes."""
        numbers = (self.pce_svn,) if self.pce_id is None else (self.pce_svn, self.pce_id)
        return self.ppid + self.cpusvn + b"".join(number.to_bytes(2, "little") for number in numbers)


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

    @property
    def platform(self) -> PlatformIdentity | None:
        """What data of type 1, 2 or 3 says, else None. Raises `MalformedError` if its size is wrong."""
        if self.type not in _PPID_SIZES:
            return None
        return PlatformIdentity.parse(self.data, _PPID_SIZES[self.type])

    def to_bytes(self) -> bytes:
        """6 bytes of type and size, little-endian, then the data."""
        return struct.pack("<HI", self.type, len(self.data)) + self.data
