"""`tdx explain`: what a code, a message or a log says."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tdxstack.cli import json_option, print_json
from tdxstack.errors import UsageError
from tdxstack.host.explain import CODE_ALONE, MAX_TEXT, Finding, explain_text
from tdxstack.host.explain_codes import (
    CodeFinding,
    Numbers,
    explain_mentioned,
    explain_name,
    explain_number,
    number_in,
    similar_names,
)
from tdxstack.host.explain_tables import load
from tdxstack.terminal import printable

NOTHING = (
    "nothing here is known to tdxstack; try the whole log (`journalctl -b | tdx explain -`), the line before,"
    " or `tdx doctor` for what the host itself shows"
)


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="CODE|TEXT|FILE|-")
@json_option
@click.pass_context
def explain(context: click.Context, what: Sequence[str], as_json: bool) -> None:
    """Explain a status code, an error message or a whole log: meaning, likely cause, next step.

    Knows the status codes of the TDX module and the SEAM loader (hexadecimal, also their upper half alone,
    or decimal), error codes of DCAP, QGS and libtdx_attest, and messages of the kernel, KVM, QEMU, libvirt,
    QGS, PCCS and TDs. A number that means something in several families is explained for each. Of a log (a
    FILE, or - for standard input), each thing is told once, the likeliest first cause first.

    Exit code 0 if something was recognised, 1 if nothing was.

    \b
    tdx explain 0xc000050500000000
    tdx explain TDX_OPERAND_BUSY
    tdx explain "vm-type tdx not supported by KVM"
    journalctl -b | tdx explain -
    """
    tables = load()
    text = _text(what)
    numbers = Numbers(tables)
    number = number_in(text)
    codes = explain_name(text, numbers) if number is None else explain_number(number, numbers)
    findings = [] if codes or number is not None else explain_text(text, tables)
    if not codes and not findings and "\n" not in text.strip():
        codes = explain_mentioned(text, numbers)
    known = bool(codes or findings)
    similar = [] if known else similar_names(text, tables)
    if as_json:
        print_json(
            {
                "recognised": known,
                "codes": [_code_document(one) for one in codes],
                "findings": [_finding_document(one) for one in findings],
                "similar": similar,
            }
        )
    elif known:
        _show(codes, findings)
    else:
        click.echo(f"there is no such name; known is: {', '.join(similar)}" if similar else NOTHING)
    if not known:
        context.exit(1)


def _text(what: Sequence[str]) -> str:
    """What is to be explained: the words themselves, or the content of a file or of standard input."""
    if list(what) == ["-"]:
        return _read(sys.stdin.buffer, "standard input")
    if len(what) == 1 and number_in(what[0]) is None and Path(what[0]).is_file():
        with Path(what[0]).open("rb") as file:
            return _read(file, what[0])
    if len(what) == 1 and what[0].startswith(("/", "./", "../")) and " " not in what[0]:
        raise UsageError(f"there is no file {what[0]}", hint="name a log, or quote the message")
    return " ".join(what)


def _read(file: BinaryIO, name: str) -> str:
    data = file.read(MAX_TEXT + 1)
    if len(data) > MAX_TEXT:
        raise UsageError(
            f"{name} has more than {MAX_TEXT >> 20} MiB",
            hint=f"give its end: tail -c {MAX_TEXT >> 20}M FILE | tdx explain -",
        )
    return data.decode("utf-8", "replace")


def _show(codes: Sequence[CodeFinding], findings: Sequence[Finding]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 110)
    blank = ""
    for code in codes:
        console.print(blank + f"[bold]{code.name}[/]  0x{code.number:x}", highlight=False)
        console.print(_rows([("from", code.title), *_code_rows(code), ("source", code.source)]))
        blank = os.linesep
    for finding in findings:
        style = "dim" if finding.note else "bold"
        seen = f"  ({finding.count} lines)" if finding.count > 1 else ""
        console.print(Text(f"{blank}line {finding.line}: {finding.text}{seen}", style=style))
        console.print(_rows(_finding_rows(finding)))
        blank = os.linesep


def _finding_rows(finding: Finding) -> Iterable[tuple[str, str]]:
    """A code's own rows say what a message that only carries it leaves open."""
    yield "layer", finding.layer
    if not finding.id.startswith(CODE_ALONE):
        yield "means", finding.meaning
    for code in finding.codes:
        yield "code", f"{code.name} (0x{code.number:x}), {code.title}"
        yield from _code_rows(code)
    if not finding.codes:
        yield "cause", finding.cause
        yield "next", finding.next
    yield "source", finding.source


def _code_rows(code: CodeFinding) -> Iterable[tuple[str, str]]:
    yield "means", code.meaning
    yield "fields", ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in code.fields.items())
    yield "cause", code.cause
    yield "next", code.next


def _rows(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for label, text in rows:
        if text:
            table.add_row(Text(f"  {label}", style="dim"), Text(printable(text)))
    return table


def _code_document(code: CodeFinding) -> Mapping[str, object]:
    return {
        "code": f"0x{code.number:x}",
        "name": code.name,
        "family": code.family,
        "title": code.title,
        "layer": code.layer,
        "meaning": code.meaning,
        "cause": code.cause,
        "next": code.next,
        "fields": dict(code.fields),
        "source": code.source,
    }


def _finding_document(finding: Finding) -> Mapping[str, object]:
    return {
        "id": finding.id,
        "layer": finding.layer,
        "note": finding.note,
        "line": finding.line,
        "text": finding.text,
        "count": finding.count,
        "meaning": finding.meaning,
        "cause": finding.cause,
        "next": finding.next,
        "source": finding.source,
        "codes": [_code_document(code) for code in finding.codes],
    }
