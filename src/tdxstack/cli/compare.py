"""`tdx compare`: what differs between two measurements, and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tdxstack.cli import json_option, print_json
from tdxstack.cli.compare_page import render_page
from tdxstack.cli.edge import surroundings
from tdxstack.cli.evidence_input import STDIN, read_evidence
from tdxstack.errors import UsageError
from tdxstack.files import write_atomically
from tdxstack.measurement.comparison.alignment import Kind
from tdxstack.measurement.comparison.cause import either
from tdxstack.measurement.comparison.compare import Comparison, Difference, Register
from tdxstack.measurement.comparison.compare import compare as compare_sides
from tdxstack.measurement.comparison.reading import read_side
from tdxstack.measurement.comparison.side import Side
from tdxstack.measurement.comparison.values import PRESENT
from tdxstack.terminal import printable
from tdxstack.workflows.machines import Machines
from tdxstack.workflows.subjects import machine_side

MARKS = {Kind.ADDED: "+", Kind.REMOVED: "-", Kind.CHANGED: "~", Kind.MOVED: ">"}
SHOWN = 16
"""Hexadecimal digits of a digest that the table shows; --json has them all."""


@click.command()
@click.argument("a")
@click.argument("b")
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Write one page with both logs."
)
@json_option
def compare(a: str, b: str, html: Path | None, as_json: bool) -> int:
    """Say what differs between the measurements A and B, why, and what to do.

    Each is the name of a machine, or a file: an event log (CCEL), a quote, a TDREPORT, evidence of `tdx-guest
    collect`, or what `tdx predict` wrote (its JSON, or reference values). A machine that runs and
    has presented no evidence, as `tdx up` has it do, is asked for some over SSH.

    Nothing is verified: `tdx evidence verify` and `tdx quote verify` do that. Exit code 0 if both are equal,
    1 if they differ.
    """
    machines = Machines(surroundings())
    comparison = compare_sides(_side(machines, a), _side(machines, b))
    if html is not None:
        write_atomically(html, render_page(comparison).encode())
    if as_json:
        print_json(comparison.to_json())
    else:
        _print(Console(), comparison)
    return 0 if comparison.equal else 1


def _side(machines: Machines, source: str) -> Side:
    names = machines.names()
    if source in names:
        return machine_side(machines, source)
    if source != STDIN and not Path(source).exists():
        known = ", ".join(names) or "none"
        raise UsageError(f"{source!r} is neither a machine nor a file", hint=f"machines here: {known}")
    return read_side(source, read_evidence(source))


def _print(console: Console, comparison: Comparison) -> None:
    for mark, side in (("A", comparison.a), ("B", comparison.b)):
        emulated = ", emulated" if side.emulated else ""
        console.print(Text(f"{mark}: {printable(side.name)} ({side.kind}{emulated})"))
    console.print()
    console.print(_registers(comparison))
    console.print()
    for item in comparison.differences:
        # Not wrapped: digests and names are there to be copied and searched for.
        click.echo("\n".join(_difference(item)))
    if comparison.differences:
        click.echo()
    for cause in comparison.causes:
        console.print(Text(f"{cause.id}: ", style="bold") + Text(printable(cause.sentence)))
        console.print(Text(f"  {printable(cause.advice)}", style="dim"))
    for register in comparison.unexplained_registers:
        console.print(
            Text(f"{register.upper()} differs for no known cause", style="bold red") + _no_log(comparison)
        )
    for number in comparison.unexplained_differences:
        console.print(Text(f"event {number} differs for no known cause", style="bold red"))
    if comparison.equal:
        console.print(Text(f"equal, as far as both sides say: {', '.join(_known(comparison)) or 'nothing'}"))


def _registers(comparison: Comparison) -> Table:
    table = Table("REGISTER", "A", "B", "", box=None, pad_edge=False)
    for register in comparison.registers:
        words = _word(comparison, register)
        table.add_row(register.name.upper(), _short(register.a), _short(register.b), words)
    return table


def _word(comparison: Comparison, register: Register) -> str:
    """Whether a register is equal; where a value is not known, whether its events are, as far as they are."""
    events = [pair for pair in comparison.pairs if either(pair).register == register.name]
    if register.equal or (register.equal is None and not events):
        return "[green]equal[/]" if register.equal else "[dim]not known[/]"
    if register.equal is False or any(pair.kind for pair in events):
        return "[bold red]differs[/]"
    unknown = sum(
        pair.a is None or pair.b is None or None in (pair.a.digest, pair.b.digest) for pair in events
    )
    return f"[green]{len(events) - unknown} events equal[/], {unknown} not known"


def _difference(item: Difference) -> Iterator[str]:
    """What the event is about, its digests, then each field that differs."""
    a, b = item.pair.a, item.pair.b
    entry = b or a
    assert entry is not None
    yield f"{MARKS[item.kind]} {item.number:>3}  {entry.register.upper()}  {printable(entry.meaning)}"
    yield f"       A {_short(a.digest if a else None)}  B {_short(b.digest if b else None)}"
    for value in item.values:
        if PRESENT in (value.a, value.b):
            yield f"       {'only A' if value.b is None else 'only B'}: {value.name}"
        else:
            yield f"       {value.name}: {value.a or 'none'}"
            yield f"       {' ' * len(value.name)}  {value.b or 'none'}"


def _no_log(comparison: Comparison) -> Text:
    without = [side.name for side in (comparison.a, comparison.b) if side.entries is None]
    return Text(f"; {printable(without[0])} has no event log, give one to see why" if without else "")


def _known(comparison: Comparison) -> list[str]:
    return [register.name.upper() for register in comparison.registers if register.equal]


def _short(digest: bytes | None) -> str:
    return f"{digest.hex()[:SHOWN]}…" if digest is not None else "-"
