"""What a QEMU binary can do, asked of the binary itself rather than guessed from its version."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from tdxstack.errors import CommandError
from tdxstack.run import run

PROBE_SECONDS = 30.0

_QUESTIONS = (
    {"execute": "qmp_capabilities"},
    {"execute": "query-version"},
    {
        "execute": "qom-list-types",
        "arguments": {"implements": "confidential-guest-support", "abstract": False},
    },
    {"execute": "quit"},
)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """One QEMU binary."""

    version: str
    confidential_guests: frozenset[str]
    """Object types that can guard a machine: `tdx-guest`, `tdx-tcg-guest`, ..."""


def probe(qemu: Sequence[str]) -> Capabilities:
    """Start `qemu` without a machine and ask it; `CommandError` where it does not answer as QEMU does."""
    argv, questions = command(qemu)
    return parse(qemu[0], run(argv, input=questions, timeout=PROBE_SECONDS).stdout)


def command(qemu: Sequence[str]) -> tuple[list[str], bytes]:
    """The command that asks `qemu`, and what it reads from its standard input."""
    argv = [*qemu, "-machine", "none", "-nodefaults", "-display", "none", "-qmp", "stdio"]
    return argv, b"".join(json.dumps(question).encode() + b"\n" for question in _QUESTIONS)


def parse(name: str, output: bytes) -> Capabilities:
    """What the command has printed; `CommandError` where that is not what QEMU answers."""
    try:
        answers = [
            document["return"] for line in output.splitlines() if "return" in (document := json.loads(line))
        ]
        _, version, types, *_ = answers
        number = version["qemu"]
        return Capabilities(
            f"{number['major']}.{number['minor']}.{number['micro']}",
            frozenset(kind["name"] for kind in types),
        )
    except (ValueError, KeyError, TypeError):
        raise CommandError(f"{name} does not answer as QEMU does: {output[:200]!r}") from None
