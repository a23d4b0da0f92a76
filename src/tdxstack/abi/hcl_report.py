"""Azure's HCL report: a TDREPORT and what its REPORTDATA binds, from the vTPM's NV index 0x01400001.

Sources: OpenHCL `openhcl_attestation_protocol/src/igvm_attest/get.rs`; Microsoft Learn, "Confidential VM
guest attestation design", section "Attestation report format". All integers are little-endian.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, fields
from operator import attrgetter

from tdxstack.abi.binary import Reader
from tdxstack.abi.fixed import pack, unpack
from tdxstack.abi.tdreport import TDREPORT_SIZE, TdReport
from tdxstack.errors import MalformedError

SIGNATURE = b"HCLA"
REPORT_TYPE_NAMES = {0: "none", 1: "VBS", 2: "SEV-SNP", 3: "trusted VM", 4: "TDX"}
REPORT_TYPE_TDX = 4
HASHES = {1: "sha256", 2: "sha384", 3: "sha512"}
HARDWARE_REPORT_SIZE = 1184
"""Room for the largest, SEV-SNP's; a TDREPORT is followed by zeros."""

MAX_CLAIMS = 1 << 16
"""Bytes of JSON that are read; the NV index has 2600 in all."""

NOT_TDX = "this is the report of a virtual machine that is no TD"

_LAYOUT = struct.Struct(f"<4sIIII12s{HARDWARE_REPORT_SIZE}sIIIII")


@dataclass(frozen=True, slots=True)
class HclReport:
    """The whole NV index.

    ======  ====  ==================================================================
    offset  size  field
    ======  ====  ==================================================================
    0       4     "HCLA"
    4       4     version (2)
    8       4     size of the report without the zeros behind it
    12      4     request type (2)
    16      4     status
    20      12    reserved
    32      1184  hardware report: TDREPORT (1024), zeros
    1216    4     size of what follows, this field included
    1220    4     version of what follows (1)
    1224    4     type of the hardware report (4 = TDX)
    1228    4     hash of the runtime data in REPORTDATA (1 = SHA-256)
    1232    4     size of the runtime data
    1236    n     runtime data: JSON with the vTPM's keys and the VM's configuration
            n     zeros up to the size of the NV index
    ======  ====  ==================================================================
    """

    version: int
    report_size: int
    request_type: int
    status: int
    reserved: bytes
    hardware_report: bytes
    data_size: int
    data_version: int
    report_type: int
    hash_type: int
    runtime_data: bytes
    trailing: bytes = b""

    @classmethod
    def parse(cls, data: bytes | memoryview) -> HclReport:
        """Read a report of any virtual machine. Raises `MalformedError` if it is cut short or none."""
        reader = Reader(data, "HCL report")
        signature, *values = unpack(
            _LAYOUT, reader.take(_LAYOUT.size, "header and hardware report"), "HCL report"
        )
        if signature != SIGNATURE:
            raise MalformedError(
                f"HCL report: signature at offset 0 is {signature!r}, not {SIGNATURE!r}",
                hint="give the contents of the vTPM's NV index 0x01400001",
            )
        values += (reader.take(values.pop(), "runtime data"), reader.rest())
        return cls(*values)

    def to_bytes(self) -> bytes:
        """The NV index. Raises `MalformedError` if a field has the wrong size."""
        values = (SIGNATURE, *_fixed_fields(self), len(self.runtime_data))
        return pack(_LAYOUT, values, "HCL report") + self.runtime_data + self.trailing

    @property
    def tdreport(self) -> TdReport:
        """The TDREPORT. Raises `MalformedError` if the report is of another technology or malformed."""
        if self.report_type != REPORT_TYPE_TDX:
            name = REPORT_TYPE_NAMES.get(self.report_type, "unknown")
            raise MalformedError(
                f"HCL report: report type at offset 1224 is {self.report_type} ({name}), not 4 (TDX)",
                hint=NOT_TDX,
            )
        return TdReport.parse(self.hardware_report[:TDREPORT_SIZE])

    def runtime_claims(self) -> dict[str, object]:
        """The runtime data's JSON object. Raises `MalformedError` if it is none."""
        if len(self.runtime_data) > MAX_CLAIMS:
            raise MalformedError(
                f"HCL report: {len(self.runtime_data)} bytes of runtime data at offset 1236",
                hint=f"the report is damaged: {MAX_CLAIMS} bytes are more than an NV index holds",
            )
        try:
            claims = json.loads(self.runtime_data)
        except (ValueError, RecursionError) as error:
            raise MalformedError(
                f"HCL report: runtime data at offset 1236 is no JSON: {error}", hint="the report is damaged"
            ) from None
        if not isinstance(claims, dict):
            raise MalformedError(
                "HCL report: runtime data at offset 1236 is no JSON object", hint="the report is damaged"
            )
        return claims

    def runtime_data_binds(self) -> bool:
        """Whether REPORTDATA is the hash of the runtime data, and zeros. Raises what `tdreport` raises."""
        name = HASHES.get(self.hash_type)
        if name is None:
            return False
        return hashlib.new(name, self.runtime_data).digest().ljust(64, b"\0") == self.tdreport.report_data


_fixed_fields = attrgetter(*(field.name for field in fields(HclReport)[:-2]))
