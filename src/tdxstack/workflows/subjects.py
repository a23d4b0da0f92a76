"""What can be compared on this machine: files, and the machines that `tdx` runs or ran."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from itertools import pairwise

from tdxstack.errors import UsageError
from tdxstack.evidence.binding import NONCE_SIZE
from tdxstack.machine.store import MachineFiles, MachineState
from tdxstack.measurement.comparison.reading import read_side
from tdxstack.measurement.comparison.side import Side
from tdxstack.workflows.collect import collect_evidence
from tdxstack.workflows.machines import Machines

MIB = 1 << 20
COMMAND_LINE = re.compile(r"] Command line: ([^\r\n]*)")
"""How Linux says at its start which command line it was given."""


def machine_side(machines: Machines, name: str) -> Side:
    """A machine, by the evidence that it has presented since it was started; else it is asked for some.

    Of one that does not run, the last that it has presented counts. Raises `UsageError` where there is no
    such machine, or none that runs or has presented any, and what asking for it raises.
    """
    state, files = machines.store.load(name), machines.store.files(name)
    if machines.store.is_running(name) and not _has_presented(files, state):
        collect_evidence(machines.machine(name), secrets.token_bytes(NONCE_SIZE))
    if not files.evidence.exists():
        raise UsageError(
            f"machine {name!r} does not run, and has presented no evidence",
            hint=f"start it: tdx vm start {name} --wait ssh",
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


def _has_presented(files: MachineFiles, state: MachineState) -> bool:
    """Whether there is evidence of this run of the machine."""
    if not files.evidence.exists():
        return False
    return files.evidence.stat().st_mtime >= datetime.fromisoformat(state.started).timestamp()


def _option(argv: Sequence[str], option: str) -> str:
    """The word after `option`; empty where it is missing."""
    return next((value for name, value in pairwise(argv) if name == option), "")
