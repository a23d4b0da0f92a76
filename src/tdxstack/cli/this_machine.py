"""A machine that is there, opened without any of what machines are made with."""

from __future__ import annotations

from tdxstack.cli.edge import directories, now, surroundings
from tdxstack.machine.machine import Machine
from tdxstack.machine.store import MachineStore


def machine_names() -> list[str]:
    """The machines of this user."""
    return MachineStore(directories()).names()


def open_machine(name: str) -> Machine:
    """The machine `name`. Raises `UsageError` where there is none."""
    store = MachineStore(directories())
    store.require(name)
    return Machine(store, name, _program, now)


def _program(name: str) -> list[str]:
    # Only those that enter a machine need a program, and may have to fetch it.
    from tdxstack.workflows.workshop import Workshop

    return Workshop(surroundings()).program(name)
