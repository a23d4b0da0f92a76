"""What a QEMU binary can do, asked of the binary itself rather than guessed from its version."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tdxstack.errors import CommandError

CONFIDENTIAL_GUESTS: Mapping[str, object] = {
    "execute": "qom-list-types",
    "arguments": {"implements": "confidential-guest-support", "abstract": False},
}


@dataclass(frozen=True, slots=True)
class Capabilities:
    """One QEMU binary."""

    version: str
    confidential_guests: frozenset[str]
    """Object types that can guard a machine: `tdx-guest`, `tdx-tcg-guest`, ..."""


def command(
    qemu: Sequence[str], questions: Sequence[Mapping[str, object]] = (CONFIDENTIAL_GUESTS,)
) -> tuple[list[str], bytes]:
    """The command that asks `qemu`, without a machine, and what it reads from its standard input."""
    argv = [*qemu, "-machine", "none", "-nodefaults", "-display", "none", "-qmp", "stdio"]
    words = [{"execute": "qmp_capabilities"}, {"execute": "query-version"}, *questions, {"execute": "quit"}]
    return argv, b"".join(json.dumps(word).encode() + b"\n" for word in words)


def answers(output: bytes) -> tuple[str, list[Any]]:
    """QEMU's version and its answers to the questions of `command`.

    Raises `ValueError`, `KeyError` or `TypeError` where that is not what QEMU answers.
    """
    _, version, *found = [
        document["return"] for line in output.splitlines() if "return" in (document := json.loads(line))
    ]
    number = version["qemu"]
    return f"{number['major']}.{number['minor']}.{number['micro']}", found


def no_qemu(name: str, output: bytes) -> CommandError:
    """The error for a program that does not answer as QEMU does."""
    return CommandError(f"{name} does not answer as QEMU does: {output[:200]!r}")


def parse(name: str, output: bytes) -> Capabilities:
    """What the command has printed; `CommandError` where that is not what QEMU answers."""
    try:
        version, (types, *_) = answers(output)
        return Capabilities(version, frozenset(kind["name"] for kind in types))
    except (ValueError, KeyError, TypeError):
        raise no_qemu(name, output) from None
