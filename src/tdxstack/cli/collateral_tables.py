"""Collateral as people read it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tdxstack.terminal import printable
from tdxstack.verification.contents import Contents, ItemState
from tdxstack.verification.tcb_info import IsvLevel, TcbInfo

STYLES = {
    ItemState.CURRENT: "green",
    ItemState.EXPIRED: "bold red",
    ItemState.NOT_YET_VALID: "bold red",
    ItemState.UNREADABLE: "bold yellow",
}
STATUS_STYLES = {"UpToDate": "green", "Revoked": "bold red"}
EMULATED = "emulated: no hardware stands behind this"


def title(contents: Contents) -> str:
    """What the collateral is for, in a line."""
    subject = str(contents.subject) if contents.subject else "collateral that does not say what it is for"
    return f"{subject} ({EMULATED})" if contents.emulated else subject


def day(time: datetime | None) -> str:
    """A time to the minute, in UTC."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M") if time else "unknown"


def print_contents(console: Console, contents: Contents, time: datetime) -> None:
    """Everything in one collateral, as of `time`."""
    console.print(Text(title(contents), style="bold"))
    console.print()
    console.print(_items_table(contents, time))
    if contents.tcb_info is not None:
        console.print()
        console.print(_levels_table(contents.tcb_info))
    modules = [
        (module.id, module.levels)
        for module in (contents.tcb_info.module_identities if contents.tcb_info else ())
    ]
    if contents.qe_identity is not None:
        modules.append((contents.qe_identity.id, contents.qe_identity.levels))
    if modules:
        console.print()
        console.print(_isv_table(modules))


def summary_table(all_contents: Iterable[Contents], time: datetime) -> Table:
    """A line for each collateral, as of `time`."""
    table = Table("TEE", "FMSPC", "CA", "EVALUATION", "STATE", "UNTIL", "", box=None, pad_edge=False)
    for contents in all_contents:
        subject = contents.subject
        platform = subject.platform if subject else None
        table.add_row(
            platform.tee if platform else "?",
            platform.fmspc.hex() if platform else "?",
            platform.ca if platform else "?",
            str(subject.evaluation_number) if subject else "?",
            _state(contents.state(time)),
            day(contents.end),
            "emulated" if contents.emulated else "",
        )
    return table


def _items_table(contents: Contents, time: datetime) -> Table:
    table = Table("ITEM", "STATE", "ISSUED", "UNTIL", "ISSUER", box=None, pad_edge=False)
    for item in contents.items:
        revoked = "" if item.revoked is None else f", {item.revoked} revoked"
        story = f"{item.issuer}{revoked}" if item.start else item.problem
        table.add_row(
            item.name, _state(item.state(time)), day(item.start), day(item.end), Text(printable(story))
        )
    return table


def _levels_table(info: TcbInfo) -> Table:
    table = Table("TCB LEVEL", "DATE", "SGX SVNS", "PCE", "TDX SVNS", "ADVISORIES", box=None, pad_edge=False)
    for level in info.levels:
        table.add_row(
            _status(level.status.value),
            level.date.strftime("%Y-%m-%d"),
            _svns(level.sgx_svns),
            str(level.pcesvn),
            _svns(level.tdx_svns),
            _advisories(level.advisories),
        )
    return table


def _isv_table(modules: Iterable[tuple[str, tuple[IsvLevel, ...]]]) -> Table:
    table = Table("TDX MODULE, QE", "ISVSVN", "STATUS", "DATE", "ADVISORIES", box=None, pad_edge=False)
    for name, levels in modules:
        for level in levels:
            table.add_row(
                Text(printable(name)),
                str(level.isvsvn),
                _status(level.status.value),
                level.date.strftime("%Y-%m-%d"),
                _advisories(level.advisories),
            )
    return table


def _state(state: ItemState) -> Text:
    return Text(state.value, style=STYLES[state])


def _status(status: str) -> Text:
    return Text(status, style=STATUS_STYLES.get(status, "yellow"))


def _svns(svns: bytes) -> str:
    """Component SVNs in hex, without the zeros at the end."""
    return svns.rstrip(b"\0").hex() or "00"


def _advisories(advisories: tuple[str, ...]) -> Text:
    return Text(printable(" ".join(advisories)))
