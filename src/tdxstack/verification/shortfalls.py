"""What keeps a platform from the best TCB status: which security version is short, and what raises it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from operator import attrgetter
from typing import Any, Final, TypeVar

from tdxstack.verification.chains import stamp
from tdxstack.verification.sgx_extension import SgxExtension
from tdxstack.verification.tcb_info import Component, IsvLevel, TcbInfo, TcbLevel

_Level = TypeVar("_Level", TcbLevel, IsvLevel)

_MODULE_VERSIONS: Final = {0: "1.0", 1: "1.5", 3: "2.0"}
"""TDX modules by the second byte of TEE_TCB_SVN."""


class Update(StrEnum):
    """What must be updated to raise a security version."""

    PLATFORM = "microcode or BIOS"
    SEAM_LOADER = "SEAM loader"
    PCE = "PCE"
    TDX_MODULE = "TDX module"
    QUOTING_ENCLAVE = "quoting enclave"


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A security version below that of the best TCB status.

    `part` names it, as in "SGX component 1"; `name` is what Intel calls it, if anything. `since` is the TCB
    date from which on more than `have` is asked for; `advisories` are those of the level that was reached.
    """

    part: str
    name: str
    have: int
    need: int
    update: Update
    since: datetime
    advisories: tuple[str, ...]

    def __str__(self) -> str:
        name = f" ({self.name})" if self.name else ""
        return f"{self.part}{name} is {self.have}, needs {self.need}"

    def to_json(self) -> dict[str, Any]:
        """The fields by name, the date in ISO 8601."""
        return {
            "part": self.part,
            "name": self.name,
            "have": self.have,
            "need": self.need,
            "update": self.update.value,
            "since": stamp(self.since),
            "advisory_ids": list(self.advisories),
        }


def described(shortfalls: Iterable[Shortfall]) -> list[str]:
    """For people: what to update, up to which TCB, and for the sake of what."""
    updates: dict[str, list[str]] = {}
    for shortfall in shortfalls:
        goal = f"update {shortfall.update}, as asked for since the TCB of {shortfall.since:%Y-%m-%d}"
        updates.setdefault(goal, []).append(str(shortfall))
    return [f"{goal}: {'; '.join(parts)}" for goal, parts in updates.items()]


def module_part(major: int) -> str:
    """What people call the TDX modules of a major version in TEE_TCB_SVN, as in "TDX module 1.5 (TDX_01)"."""
    version = _MODULE_VERSIONS.get(major)
    return f"TDX module {version} (TDX_{major:02X})" if version else f"TDX module TDX_{major:02X}"


def platform_shortfalls(
    info: TcbInfo, pck: SgxExtension, tee_tcb_svn: bytes, start: int, reached: TcbLevel | None
) -> Iterator[Shortfall]:
    """Which SVNs of a platform that has `reached` a level are below those of the best.

    Of `tee_tcb_svn` (empty for SGX) the bytes before `start` do not count, being the TDX module's own.
    """
    if not info.levels:
        return
    advisories = reached.advisories if reached else ()
    levels, target = info.levels, _target(info.levels)
    kinds = (
        ("SGX", pck.components, attrgetter("sgx_svns"), 0, target.components),
        ("TDX", tee_tcb_svn, attrgetter("tdx_svns"), start, target.components[len(target.sgx_svns) :]),
    )
    for kind, svns, needed, first, components in kinds:
        for offset in range(first, len(svns)):
            have, need, component = svns[offset], needed(target)[offset], components[offset]
            if have < need:
                since = min(level.date for level in levels if needed(level)[offset] > have)
                part, update = f"{kind} component {offset + 1}", _update(component)
                yield Shortfall(part, str(component), have, need, update, since, advisories)
    if pck.pcesvn < target.pcesvn:
        since = min(level.date for level in levels if level.pcesvn > pck.pcesvn)
        yield Shortfall("PCESVN", "", pck.pcesvn, target.pcesvn, Update.PCE, since, advisories)


def isv_shortfalls(
    part: str, update: Update, levels: Sequence[IsvLevel], have: int, reached: IsvLevel | None
) -> Iterator[Shortfall]:
    """The ISVSVN of a TDX module or a quoting enclave, if it is below that of the best of its levels."""
    if levels and have < _target(levels).isvsvn:
        since = min(level.date for level in levels if level.isvsvn > have)
        advisories = reached.advisories if reached else ()
        yield Shortfall(f"ISVSVN of the {part}", "", have, _target(levels).isvsvn, update, since, advisories)


def _target(levels: Sequence[_Level]) -> _Level:
    """The lowest level that is as good as the best."""
    return [level for level in levels if level.status is levels[0].status][-1]


def _update(component: Component) -> Update:
    kind = component.type.upper()
    if "TDX MODULE" in kind:
        return Update.TDX_MODULE
    return Update.SEAM_LOADER if "SEAMLDR" in kind else Update.PLATFORM
