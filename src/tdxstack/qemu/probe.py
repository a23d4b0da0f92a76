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
    argv = [*qemu, "-machine", "none", "-nodefaults", "-display", "none", "-qmp", "stdio"]
    questions = b"".join(json.dumps(question).encode() + b"\n" for question in _QUESTIONS)
    output = run(argv, input=questions, timeout=PROBE_SECONDS).stdout
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
        raise CommandError(f"{qemu[0]} does not answer as QEMU does: {output[:200]!r}") from None
