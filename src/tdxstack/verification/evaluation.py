"""TCB evaluation: which level a platform, its TDX module and its quoting enclave reach, and what is short.

Source: the algorithm of Intel's Quote Verification Library (`EvaluateTcb.cpp`, `TDRelaunchCheck.cpp`) and of
Intel PCS API version 4, "TCB Info" and "TDX module identity".
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from tdxstack.verification.sgx_extension import SgxExtension
from tdxstack.verification.shortfalls import (
    Shortfall,
    Update,
    isv_shortfalls,
    module_part,
    platform_shortfalls,
)
from tdxstack.verification.tcb_info import IsvLevel, TcbInfo, TcbLevel, TcbStatus, TdxModule

_MODULE_SVN: Final = 0
_MODULE_MAJOR: Final = 1
"""Bytes of TEE_TCB_SVN: the module's ISVSVN, and its major version, 0 for TDX 1.0."""

_MODULE_BYTES: Final = 2
"""Bytes of TEE_TCB_SVN that speak of a module of version 1.5 or later alone."""

_WORSE_WITH_OUT_OF_DATE: Final = {
    TcbStatus.UP_TO_DATE: TcbStatus.OUT_OF_DATE,
    TcbStatus.SW_HARDENING_NEEDED: TcbStatus.OUT_OF_DATE,
    TcbStatus.CONFIGURATION_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED: TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
}
_OUT_OF_DATE: Final = {TcbStatus.OUT_OF_DATE, TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED}
_NOT_OUT_OF_DATE: Final = set(_WORSE_WITH_OUT_OF_DATE)
_NEEDS_CONFIGURATION: Final = {
    TcbStatus.CONFIGURATION_NEEDED,
    TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
    TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED,
}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Where a platform stands. `without_qe` leaves the quoting enclave out of `status`.

    `date` is the earliest TCB date of the levels reached; None if no level matches. `advisories` are sorted.
    `shortfalls` are those of the platform and its TDX module.
    """

    status: TcbStatus
    without_qe: TcbStatus
    date: datetime | None
    advisories: tuple[str, ...]
    shortfalls: tuple[Shortfall, ...]
    current_status: TcbStatus | None = None
    """For TDX 1.5: the status with TEE_TCB_SVN2, of the module that runs now."""


def evaluate(
    info: TcbInfo, pck: SgxExtension, qe: IsvLevel | None, launch_svn: bytes = b"", current_svn: bytes = b""
) -> Evaluation:
    """Evaluate a platform whose quoting enclave reached the level `qe` (None: no level).

    `launch_svn` is TEE_TCB_SVN and `current_svn` TEE_TCB_SVN2, 16 bytes each; both empty for SGX, the second
    empty for TDX 1.0.
    """
    launch = _evaluate_once(info, pck, qe, launch_svn)
    if not current_svn:
        return launch
    current = _evaluate_once(info, pck, qe, current_svn)
    # With a module that runs now at no level there is no answer, whatever the launch was worth.
    decisive, shortfalls = launch, launch.shortfalls
    if current.status is TcbStatus.NOT_SUPPORTED:
        decisive, shortfalls = current, tuple(dict.fromkeys(launch.shortfalls + current.shortfalls))
    return replace(
        decisive,
        status=_relaunch(launch.status, current.status),
        without_qe=_relaunch(launch.without_qe, current.without_qe),
        shortfalls=shortfalls,
        current_status=current.status,
    )


def match_level(info: TcbInfo, pck: SgxExtension, tee_tcb_svn: bytes) -> TcbLevel | None:
    """The first TCB level that the platform reaches; `tee_tcb_svn` empty for SGX.

    With a TDX module of version 1.5 or later, its two bytes of TEE_TCB_SVN are left to its own levels.
    """
    start = _MODULE_BYTES if tee_tcb_svn and tee_tcb_svn[_MODULE_MAJOR] > 0 else 0
    for level in info.levels:
        if (
            _reaches(pck.components, level.sgx_svns)
            and pck.pcesvn >= level.pcesvn
            and (not tee_tcb_svn or _reaches(tee_tcb_svn[start:], level.tdx_svns[start:]))
        ):
            return level
    return None


def find_module(info: TcbInfo, tee_tcb_svn: bytes) -> TdxModule | None:
    """What the TDX module with this TEE_TCB_SVN must be; TDX 1.0 (major version 0) has the general entry."""
    major = tee_tcb_svn[_MODULE_MAJOR]
    if major == 0:
        return info.module
    return next((module for module in info.module_identities if module.id == module_name(tee_tcb_svn)), None)


def module_name(tee_tcb_svn: bytes) -> str:
    """The id of the TDX module's identity, as in "TDX_01"."""
    return f"TDX_{tee_tcb_svn[_MODULE_MAJOR]:02X}"


def converge(platform: TcbStatus, components: Sequence[TcbStatus]) -> TcbStatus:
    """The status of a platform whose TDX module and quoting enclave have the statuses `components`."""
    if TcbStatus.NOT_SUPPORTED in components or platform is TcbStatus.NOT_SUPPORTED:
        return TcbStatus.NOT_SUPPORTED
    if TcbStatus.REVOKED in components:
        return TcbStatus.REVOKED
    if TcbStatus.OUT_OF_DATE in components:
        return _WORSE_WITH_OUT_OF_DATE.get(platform, platform)
    return platform


def _evaluate_once(info: TcbInfo, pck: SgxExtension, qe: IsvLevel | None, tee_tcb_svn: bytes) -> Evaluation:
    platform = match_level(info, pck, tee_tcb_svn)
    has_module_levels = bool(tee_tcb_svn) and tee_tcb_svn[_MODULE_MAJOR] > 0
    module = _module_level(info, tee_tcb_svn) if has_module_levels else None
    module_statuses = [module.status if module else TcbStatus.NOT_SUPPORTED] if has_module_levels else []
    status = platform.status if platform else TcbStatus.NOT_SUPPORTED
    without_qe = converge(status, module_statuses)
    full = converge(status, [*module_statuses, qe.status if qe else TcbStatus.NOT_SUPPORTED])
    matched = full is not TcbStatus.NOT_SUPPORTED
    reached = [level for level in (platform, module, qe) if level is not None] if matched else []
    shortfalls: list[Shortfall] = []
    if platform is None or platform.status is not info.levels[0].status:
        compared_from = _MODULE_BYTES if has_module_levels else 0
        shortfalls += platform_shortfalls(info, pck, tee_tcb_svn, compared_from, platform)
    identity = find_module(info, tee_tcb_svn) if has_module_levels else None
    if identity is not None:
        part = module_part(tee_tcb_svn[_MODULE_MAJOR])
        have = tee_tcb_svn[_MODULE_SVN]
        shortfalls += isv_shortfalls(part, Update.TDX_MODULE, identity.levels, have, module)
    return Evaluation(
        status=full,
        without_qe=without_qe,
        date=min((level.date for level in reached), default=None),
        advisories=tuple(sorted({advisory for level in reached for advisory in level.advisories})),
        shortfalls=tuple(shortfalls),
    )


def _module_level(info: TcbInfo, tee_tcb_svn: bytes) -> IsvLevel | None:
    module = find_module(info, tee_tcb_svn)
    levels = module.levels if module else ()
    return next((level for level in levels if tee_tcb_svn[_MODULE_SVN] >= level.isvsvn), None)


def _relaunch(launch: TcbStatus, current: TcbStatus) -> TcbStatus:
    """The status of a TD that was launched under one TDX module and runs under a later one.

    Stricter than Intel's library in one point: there, a revoked module that runs now does not count.
    """
    for worst in (TcbStatus.NOT_SUPPORTED, TcbStatus.REVOKED):
        if worst in (launch, current):
            return worst
    if launch not in _OUT_OF_DATE or current not in _NOT_OUT_OF_DATE:
        return launch
    if launch in _NEEDS_CONFIGURATION or current in _NEEDS_CONFIGURATION:
        return TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED
    return TcbStatus.TD_RELAUNCH_ADVISED


def _reaches(svns: bytes, needed: bytes) -> bool:
    return all(map(operator.ge, svns, needed))
