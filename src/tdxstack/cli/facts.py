"""What evidence says, field by field, as people read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from tdxstack.terminal import printable


def print_facts(console: Console, title: str, facts: Mapping[str, Any]) -> None:
    """Name and value a line, never broken: people copy digests."""
    console.print(f"\n[bold]{title}[/]")
    lines = [line for line in _lines(facts) if not (line[0].rpartition(".")[2].startswith("reserved"))]
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        line = Text(f"  {name:<{width}}  {printable(text)}")
        console.print(line, soft_wrap=True, highlight=False)


def _lines(facts: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """One line for each fact, those of nested ones below each other."""
    for name, value in facts.items():
        label = f"{prefix}{name}"
        if isinstance(value, dict) and "names" in value:
            yield label, f"{value['value']} ({', '.join(value['names']) or 'none'})"
        elif isinstance(value, dict) and "module" in value:
            yield label, f"{value['value']} ({_module(value['module'])})"
        elif isinstance(value, dict):
            yield from _lines(value, f"{label}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for certificate in value:
                yield "certificate", _certificate(certificate)
        elif isinstance(value, list):
            yield label, " ".join(str(item) for item in value) or "none"
        else:
            yield label, "-" if value is None else str(value)


def _module(module: Mapping[str, Any]) -> str:
    version = f"TDX module {module['version']}" if module["version"] else "TDX module of an unknown line"
    return f"{version}, {module['id']}, ISVSVN {module['isvsvn']}"


def _certificate(certificate: Mapping[str, Any]) -> str:
    return (
        f"{certificate['name']}, issued by {certificate['issuer']},"
        f" valid {certificate['not_before']} to {certificate['not_after']}"
    )
