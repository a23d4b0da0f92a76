"""What can be compared on this machine: files, and the machines that `tdx` runs or ran."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from tdxstack.errors import UsageError
from tdxstack.machine.store import MachineStore
from tdxstack.measurement.comparison.reading import read_side
from tdxstack.measurement.comparison.side import Side

MIB = 1 << 20
COMMAND_LINE = re.compile(r"] Command line: ([^\r\n]*)")
"""How Linux says at its start which command line it was given."""


def machine_side(store: MachineStore, name: str) -> Side:
    """A machine, by the evidence that it presented when it was started.

    Raises `UsageError` where there is no such machine or it has presented none.
    """
    state, files = store.load(name), store.files(name)
    if not files.evidence.exists():
        raise UsageError(
            f"machine {name!r} has presented no evidence", hint="start it with `tdx up`, which collects it"
        )
    said = (
        files.console_log.read_text(encoding="utf-8", errors="replace") if files.console_log.exists() else ""
    )
    texts = [line.strip() for line in COMMAND_LINE.findall(said)]
    side = read_side(name, files.evidence.read_bytes(), texts)
    memory = _option(state.argv, "-m").removesuffix("M")
    vcpus = _option(state.argv, "-smp")
    return replace(
        side,
        kind="machine",
        memory=int(memory) * MIB if memory.isdecimal() else None,
        vcpus=int(vcpus) if vcpus.isdecimal() else None,
        emulated=state.emulated,
    )


def _option(argv: Sequence[str], option: str) -> str:
    """The word after `option`; empty where it is missing."""
    return next((value for name, value in pairwise(argv) if name == option), "")
