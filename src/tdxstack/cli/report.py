"""`tdx report`: TDREPORTs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click
from rich.console import Console

from tdxstack.cli import json_option, print_json
from tdxstack.cli.evidence_input import read_evidence
from tdxstack.cli.facts import print_facts
from tdxstack.verification.report_facts import (
    binding_facts,
    hcl_facts,
    is_emulated,
    read_report,
    report_facts,
)

BINDINGS = {
    "tcb_info": "TEE_TCB_INFO has the hash in REPORTMACSTRUCT",
    "td_info": "TDINFO has the hash in REPORTMACSTRUCT",
    "runtime_data": "REPORTDATA is the hash of the runtime data",
}


@click.group()
def report() -> None:
    """Show TDREPORTs."""


@report.command()
@click.argument("source", metavar="REPORT")
@json_option
def show(source: str, as_json: bool) -> int:
    """Show what REPORT says: a TDREPORT, or an HCL report from the vTPM of an Azure TD.

    REPORT is a file or - for standard input, in binary, hex or base64. The MAC of a TDREPORT can be checked
    on its own platform alone: nothing here proves where it is from. Exit code 1 if a hash in it does not fit.
    """
    parsed, outer = read_report(read_evidence(source))
    facts, emulated, binds = report_facts(parsed), is_emulated(parsed), binding_facts(parsed, outer)
    hcl = hcl_facts(outer) if outer else None
    if as_json:
        print_json({"verified": False, "emulated": emulated, "report": facts, "binds": binds, "hcl": hcl})
    else:
        console = Console()
        console.print(
            "not verified: only its own platform can check the MAC of a TDREPORT",
            style="yellow",
            highlight=False,
        )
        if emulated:
            console.print("[bold yellow]emulated: this TD is not protected[/]", highlight=False)
        for name, part in {**facts, **_hcl_lines(hcl)}.items():
            print_facts(console, name.replace("_", " "), part)
        console.print()
        for name, good in binds.items():
            if good is not None:
                verdict = "[green]yes[/]" if good else "[bold red]no[/]"
                console.print(f"{BINDINGS[name]}: {verdict}", highlight=False)
    return 1 if False in binds.values() else 0


def _hcl_lines(hcl: Mapping[str, Any] | None) -> dict[str, Any]:
    """The runtime data in one line a claim, as Azure has it."""
    if hcl is None:
        return {}
    claims = {name: json.dumps(value) for name, value in hcl["runtime_data"].items()}
    return {"HCL report": {**hcl, "runtime_data": claims}}
