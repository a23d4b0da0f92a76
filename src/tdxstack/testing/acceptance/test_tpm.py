"""A TPM for machines that are no TDs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tdxstack.machine.control import StopMode
from tdxstack.machine.machine import Machine
from tdxstack.machine.spec_parts import Kind
from tdxstack.testing.acceptance.kinds import ORDINARY
from tdxstack.testing.acceptance.test_many import facts
from tdxstack.testing.machines import Laboratory
from tdxstack.testing.runner import wait_for


@pytest.mark.parametrize("kind", ORDINARY)
def test_tpm(kind: Kind, laboratory: Laboratory) -> None:
    """A guest has a TPM 2.0, which answers it, and which ends with the machine."""
    with laboratory.small(kind, tpm=True) as (machine,):
        found = facts(machine)
        assert found["tpm"] == "2"
        assert re.fullmatch("[0-9A-F]{64}", found["pcr0"])
        assert len(tpms(machine)) == 1
        machine.stop(StopMode.FORCE)
        wait_for(lambda: not tpms(machine), seconds=20)


def tpms(machine: Machine) -> list[int]:
    """The processes that are the machine's TPM."""
    socket = str(machine.files.tpm_socket).encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if socket in words and b"swtpm" in words:
            found.append(int(process.name))
    return found
