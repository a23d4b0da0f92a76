"""TCB info, version 3: which security versions of a platform are good, for SGX and TDX.

Source: Intel PCS API version 4, "Get SGX TCB Info" and "Get TDX TCB Info".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
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


_COMPUTED = {
    TcbStatus.TD_RELAUNCH_ADVISED,
    TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED,
    TcbStatus.NOT_SUPPORTED,
}
_PLATFORM_STATUSES = frozenset(TcbStatus) - _COMPUTED
_MODULE_STATUSES = frozenset({TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE, TcbStatus.REVOKED})


@dataclass(frozen=True, slots=True)
class Component:
    """One of 16 TCB components: its SVN and, where Intel says so, what it is and what updates it."""

    svn: int
    category: str = ""
    type: str = ""


@dataclass(frozen=True, slots=True)
class TcbLevel:
    """A platform at these SVNs or higher has this status. `svns` are the components' SVNs alone."""

    sgx_components: tuple[Component, ...]
    sgx_svns: bytes
    pcesvn: int
    tdx_components: tuple[Component, ...]
    tdx_svns: bytes
    date: datetime
    status: TcbStatus
    advisories: tuple[str, ...]


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
    """The inner object of a TCB info document: FMSPC 6 bytes, PCE-ID 2 bytes, levels from best to worst."""

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
            levels=tuple(_level(level, is_tdx) for level in fields.children("tcbLevels")),
        )


def isv_levels(fields: Fields, statuses: frozenset[TcbStatus]) -> tuple[IsvLevel, ...]:
    """The member `tcbLevels` of a TDX module identity or an enclave identity. Raises `MalformedError`."""
    return tuple(
        IsvLevel(
            isvsvn=level.child("tcb").number("isvsvn", 0xFFFF),
            date=level.time("tcbDate"),
            status=_status(level, statuses),
            advisories=level.texts("advisoryIDs"),
        )
        for level in fields.children("tcbLevels")
    )


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
    sgx = _components(tcb, "sgxtcbcomponents")
    tdx = _components(tcb, "tdxtcbcomponents") if is_tdx else ()
    return TcbLevel(
        sgx_components=sgx,
        sgx_svns=bytes(component.svn for component in sgx),
        pcesvn=tcb.number("pcesvn", 0xFFFF),
        tdx_components=tdx,
        tdx_svns=bytes(component.svn for component in tdx),
        date=fields.time("tcbDate"),
        status=_status(fields, _PLATFORM_STATUSES),
        advisories=fields.texts("advisoryIDs"),
    )


def _components(fields: Fields, name: str) -> tuple[Component, ...]:
    components = tuple(
        Component(
            item.number("svn", 0xFF),
            item.text("category") if item.has("category") else "",
            item.text("type") if item.has("type") else "",
        )
        for item in fields.children(name)
    )
    if len(components) != COMPONENTS:
        raise MalformedError(
            f"tcbInfo: {name} has {len(components)} components, not 16", hint="fetch the collateral again"
        )
    return components


def _status(fields: Fields, allowed: frozenset[TcbStatus]) -> TcbStatus:
    text = fields.text("tcbStatus")
    for status in allowed:
        if status.value == text:
            return status
    raise MalformedError(
        f"tcbStatus {text!r} is not one of {sorted(allowed)}", hint="a newer tdxstack may know this status"
    )
