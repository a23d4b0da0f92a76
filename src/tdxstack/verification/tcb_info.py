"""TCB info, version 3: which security versions of a platform are good, for SGX and TDX.

Source: Intel PCS API version 4, "Get SGX TCB Info" and "Get TDX TCB Info".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from operator import attrgetter
from typing import Any, Final

from tdxstack.errors import MalformedError
from tdxstack.verification.fields import Fields

COMPONENTS: Final = 16
TDX: Final = "TDX"
SGX: Final = "SGX"
_VERSION = 3


class TcbStatus(StrEnum):
    """Intel's names. `NotSupported` is no level's status: it means that no level matches."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    TD_RELAUNCH_ADVISED = "TDRelaunchAdvised"
    TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "TDRelaunchAdvisedConfigurationNeeded"
    REVOKED = "Revoked"
    NOT_SUPPORTED = "NotSupported"


def by_name(*statuses: TcbStatus) -> Mapping[str, TcbStatus]:
    """`statuses` by the names that documents give them."""
    return {str(status): status for status in statuses}


_PLATFORM_STATUSES: Final = by_name(
    TcbStatus.UP_TO_DATE,
    TcbStatus.SW_HARDENING_NEEDED,
    TcbStatus.CONFIGURATION_NEEDED,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
    TcbStatus.OUT_OF_DATE,
    TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TcbStatus.REVOKED,
)
_MODULE_STATUSES: Final = by_name(TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE, TcbStatus.REVOKED)


@dataclass(frozen=True, slots=True)
class Component:
    """What one of 16 TCB components is, where Intel says so: "BIOS", "Early Microcode Update"."""

    category: str = ""
    type: str = ""

    def __str__(self) -> str:
        return " / ".join(text for text in (self.category, self.type) if text)


_UNNAMED: Final = Component()


@dataclass(frozen=True, slots=True)
class TcbLevel:
    """A platform at these SVNs or higher has this status. SVNs of components are 16 bytes; TDX: b"" for SGX.

    `components` are those of SGX, then those of TDX.
    """

    sgx_svns: bytes
    pcesvn: int
    tdx_svns: bytes
    date: datetime
    status: TcbStatus
    advisories: tuple[str, ...]
    components: tuple[Component, ...]


@dataclass(frozen=True, slots=True)
class IsvLevel:
    """A TDX module or an enclave with this ISVSVN or a higher one has this status."""

    isvsvn: int
    date: datetime
    status: TcbStatus
    advisories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TdxModule:
    """What a TDX module must be: MRSIGNERSEAM 48 bytes, SEAM attributes and their mask 8 bytes each.

    `id` is "TDX_" and the major version in two hex digits, or "" for TDX 1.0, whose modules have no levels.
    """

    id: str
    mrsigner: bytes
    attributes: bytes
    attributes_mask: bytes
    levels: tuple[IsvLevel, ...] = ()


@dataclass(frozen=True, slots=True)
class TcbInfo:
    """The inner object of a TCB info document: FMSPC 6 bytes, PCE-ID 2, levels from highest to lowest."""

    id: str
    issue_date: datetime
    next_update: datetime
    fmspc: bytes
    pce_id: bytes
    evaluation_number: int
    module: TdxModule | None
    module_identities: tuple[TdxModule, ...]
    levels: tuple[TcbLevel, ...]

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> TcbInfo:
        """Read version 3, of SGX or TDX. Raises `MalformedError`, also on a status that is not Intel's."""
        fields = Fields(value, "tcbInfo")
        kind = fields.text("id")
        version = fields.number("version")
        if kind not in (SGX, TDX) or version != _VERSION:
            raise MalformedError(
                f"tcbInfo has id {kind!r} and version {version}, not SGX or TDX and 3",
                hint="fetch TCB info with version 4 of the PCS API",
            )
        is_tdx = kind == TDX
        levels = [_level(level, is_tdx) for level in fields.children("tcbLevels")]
        return cls(
            id=kind,
            issue_date=fields.time("issueDate"),
            next_update=fields.time("nextUpdate"),
            fmspc=fields.octets("fmspc", 6),
            pce_id=fields.octets("pceId", 2),
            evaluation_number=fields.number("tcbEvaluationDataNumber"),
            module=_module(fields.child("tdxModule"), "") if is_tdx else None,
            module_identities=tuple(
                _module(identity, identity.text("id").upper())
                for identity in (
                    fields.children("tdxModuleIdentities") if fields.has("tdxModuleIdentities") else []
                )
            ),
            levels=tuple(sorted(levels, key=_rank, reverse=True)),
        )


def isv_levels(fields: Fields, statuses: Mapping[str, TcbStatus]) -> tuple[IsvLevel, ...]:
    """The member `tcbLevels` of a TDX module identity or an enclave identity, the highest ISVSVN first.

    Raises `MalformedError`.
    """
    levels = [
        IsvLevel(
            isvsvn=level.child("tcb").number("isvsvn", 0xFFFF),
            date=level.time("tcbDate"),
            status=_status(level, statuses),
            advisories=level.texts("advisoryIDs"),
        )
        for level in fields.children("tcbLevels")
    ]
    return tuple(sorted(levels, key=attrgetter("isvsvn"), reverse=True))


def _rank(level: TcbLevel) -> tuple[bytes, int, bytes]:
    """By what Intel's library sorts levels before it tries them, the highest first."""
    return level.sgx_svns, level.pcesvn, level.tdx_svns


def _module(fields: Fields, identity: str) -> TdxModule:
    return TdxModule(
        id=identity,
        mrsigner=fields.octets("mrsigner", 48),
        attributes=fields.octets("attributes", 8),
        attributes_mask=fields.octets("attributesMask", 8),
        levels=isv_levels(fields, _MODULE_STATUSES) if identity else (),
    )


def _level(fields: Fields, is_tdx: bool) -> TcbLevel:
    tcb = fields.child("tcb")
    sgx_svns, components = _components(tcb, "sgxtcbcomponents")
    tdx_svns = b""
    if is_tdx:
        tdx_svns, tdx_components = _components(tcb, "tdxtcbcomponents")
        components += tdx_components
    return TcbLevel(
        sgx_svns=sgx_svns,
        pcesvn=tcb.number("pcesvn", 0xFFFF),
        tdx_svns=tdx_svns,
        date=fields.time("tcbDate"),
        status=_status(fields, _PLATFORM_STATUSES),
        advisories=fields.texts("advisoryIDs"),
        components=components,
    )


def _components(fields: Fields, name: str) -> tuple[bytes, tuple[Component, ...]]:
    items = fields.objects(name)
    if len(items) != COMPONENTS:
        raise MalformedError(
            f"tcbInfo: {name} has {len(items)} components, not 16", hint="fetch the collateral again"
        )
    svns, components = bytearray(), []
    for number, item in enumerate(items):
        # Most of what TCB info holds: read without `Fields` unless something is there to be complained of.
        svn = item.get("svn")
        if type(svn) is not int or not 0 <= svn <= 0xFF:
            raise fields.wrong(f"{name}[{number}].svn", svn, "a number from 0 to 255")
        svns.append(svn)
        components.append(_UNNAMED if len(item) == 1 else _component(Fields(item, name)))
    return bytes(svns), tuple(components)


def _component(fields: Fields) -> Component:
    return Component(
        fields.text("category") if fields.has("category") else "",
        fields.text("type") if fields.has("type") else "",
    )


def _status(fields: Fields, allowed: Mapping[str, TcbStatus]) -> TcbStatus:
    text = fields.text("tcbStatus")
    status = allowed.get(text)
    if status is None:
        raise MalformedError(
            f"tcbStatus {text!r} is not one of {sorted(allowed)}",
            hint="a newer tdxstack may know this status",
        )
    return status
