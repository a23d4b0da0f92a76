"""Results as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tdxstack.cli.styles import STYLES
from tdxstack.terminal import printable
from tdxstack.verification.advice import advice
from tdxstack.verification.boot import Register
from tdxstack.verification.forecast import Forecast
from tdxstack.verification.quote import QuoteResult
from tdxstack.verification.result import ACCEPTED, Check, Status

_PARTS_ON_A_LINE = 3
DIGEST_SHOWN = 16
"""Hex digits of a digest that a table shows; --json has them all."""


def checks_table(checks: Iterable[Check], *, brief: bool = False) -> Table:
    """A line for each check that passed, with what was found; the whole story of the others.

    With `brief` also a line for each one that failed: `print_rejection` has told its story.
    """
    table = Table("CHECK", "STATUS", "FOUND", box=None, pad_edge=False)
    for check in checks:
        style = STYLES[check.status]
        table.add_row(check.id, f"[{style}]{check.status.value}[/]", _story(check, brief=brief))
    return table


def registers_table(registers: Mapping[str, Register]) -> Table:
    """Each register as computed here and as the TD reported it."""
    table = Table("REGISTER", "EXPECTED", "MEASURED", "", box=None, pad_edge=False)
    for name, register in registers.items():
        match = "[green]match[/]" if register.match else "[bold red]differs[/]"
        table.add_row(name.upper(), _short(register.expected), _short(register.measured), match)
    return table


def print_rejection(console: Console, checks: Iterable[Check]) -> None:
    """For each check that forbids acceptance, in words: what failed, why, and what to do; else nothing."""
    bad = [check for check in checks if check.status in (Status.FAIL, Status.UNKNOWN)]
    if not bad:
        return
    reasons = "1 reason" if len(bad) == 1 else f"{len(bad)} reasons"
    console.print(f"[bold red]rejected[/] for {reasons}:\n", highlight=False)
    table = Table.grid(padding=(0, 1))
    table.add_column()
    table.add_column(overflow="fold")
    for check, following in zip(bad, [*bad[1:], None], strict=True):
        table.add_row("  *", _reason(check))
        what = advice(check)
        # Checks that are mended together get one answer.
        if what and (following is None or advice(following) != what):
            table.add_row("", Text(f"-> {what}", style="yellow"))
    console.print(table)
    console.print()


def _reason(check: Check) -> Text:
    """The check and its story: on one line if it has one part, else a line for each part."""
    failed = "failed" if check.status is Status.FAIL else "could not be checked"
    told = _parts(check)
    if len(told) > _PARTS_ON_A_LINE:
        lines = "".join(f"\n- {part}" for part in told[:-1])
        return Text.assemble((check.id, "bold"), f" {failed}: {told[-1]}{lines}")
    return Text.assemble((check.id, "bold"), f" {failed}: {'; '.join(told)}")


def _parts(check: Check) -> list[str]:
    """Why it is as it is, and at last what was expected and found."""
    parts = [part for part in check.detail.split("; ") if part]
    if check.expected or check.found:
        parts.append(f"expected {check.expected or '-'}, found {check.found or '-'}")
    return [printable(part) for part in parts]


def print_forecast(console: Console, later: Forecast) -> None:
    """What other collateral will make of the verdict, and which checks it changes."""
    print_tcb(console, f"forecast: {later.then.verdict}, TCB status", later.then)
    for change in later.changes:
        detail = f": {printable(change.detail)}" if change.detail else ""
        console.print(Text(f"  {change.id} turns from {change.now} to {change.then}{detail}"))


def print_tcb(console: Console, label: str, result: QuoteResult) -> None:
    """The TCB status after `label`, with its advisories."""
    status = result.tcb.status.value if result.tcb else "not known"
    advisories = ", ".join(result.tcb.advisories) if result.tcb else ""
    console.print(f"{label} {status}{f' ({advisories})' if advisories else ''}", highlight=False)


def print_verdict(console: Console, verdict: str, *, emulated: bool) -> None:
    """The last line of a verification; it says so where the evidence is emulated."""
    style = "bold green" if verdict == ACCEPTED else "bold red"
    mark = "  [bold yellow]emulated: this TD is not protected[/]" if emulated else ""
    console.print(f"verdict: [{style}]{verdict}[/]{mark}", highlight=False)


def _story(check: Check, *, brief: bool) -> Text:
    quiet = {Status.OK, Status.NOT_APPLICABLE} | ({Status.FAIL, Status.UNKNOWN} if brief else set())
    if check.status in quiet:
        return Text(printable(check.found or check.detail), style="dim", no_wrap=True, overflow="ellipsis")
    return Text("; ".join(_parts(check)))


def _short(digest: bytes | None) -> str:
    if digest is None:
        return "-"
    text = digest.hex()
    return f"{text[:DIGEST_SHOWN]}…" if len(text) > DIGEST_SHOWN else text
