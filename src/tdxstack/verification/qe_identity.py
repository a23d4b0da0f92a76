"""QE identity, version 2: which quoting enclaves are good.

Source: Intel PCS API version 4, "Get Quoting Enclave Identity" and "Get TD Quoting Enclave Identity".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from tdxstack.errors import MalformedError
from tdxstack.verification.fields import Fields
from tdxstack.verification.tcb_info import IsvLevel, TcbStatus, by_name, isv_levels

QE: Final = "QE"
TD_QE: Final = "TD_QE"
_VERSION = 2
_STATUSES = by_name(
    TcbStatus.UP_TO_DATE,
    TcbStatus.OUT_OF_DATE,
    TcbStatus.CONFIGURATION_NEEDED,
    TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TcbStatus.REVOKED,
)


@dataclass(frozen=True, slots=True)
class QeIdentity:
    """The inner object of an enclave identity document; masks select the bits that must be equal.

    `miscselect` and its mask are the 32-bit numbers that the enclave's report holds.
    """

    id: str
    issue_date: datetime
    next_update: datetime
    evaluation_number: int
    miscselect: int
    miscselect_mask: int
    attributes: bytes
    attributes_mask: bytes
    mrsigner: bytes
    isv_prod_id: int
    levels: tuple[IsvLevel, ...]

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> QeIdentity:
        """Read version 2. Raises `MalformedError`."""
        fields = Fields(value, "enclaveIdentity")
        version = fields.number("version")
        if version != _VERSION:
            raise MalformedError(
                f"enclaveIdentity has version {version}, not 2",
                hint="fetch the identity with version 4 of the PCS API",
            )
        return cls(
            id=fields.text("id"),
            issue_date=fields.time("issueDate"),
            next_update=fields.time("nextUpdate"),
            evaluation_number=fields.number("tcbEvaluationDataNumber"),
            # Byte strings in the order they have in an enclave's report, which is little-endian.
            miscselect=int.from_bytes(fields.octets("miscselect", 4), "little"),
            miscselect_mask=int.from_bytes(fields.octets("miscselectMask", 4), "little"),
            attributes=fields.octets("attributes", 16),
            attributes_mask=fields.octets("attributesMask", 16),
            mrsigner=fields.octets("mrsigner", 32),
            isv_prod_id=fields.number("isvprodid", 0xFFFF),
            levels=isv_levels(fields, _STATUSES),
        )

    def level(self, isvsvn: int) -> IsvLevel | None:
        """The first level that an enclave with this ISVSVN reaches."""
        return next((level for level in self.levels if isvsvn >= level.isvsvn), None)
