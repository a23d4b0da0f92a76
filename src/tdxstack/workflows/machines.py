"""The machines of one user: found, and made ready to be controlled."""

from __future__ import annotations

from tdxstack.machine.machine import Machine
from tdxstack.machine.store import MachineStore
from tdxstack.run import Report, silent
from tdxstack.workflows.workshop import Surroundings, Workshop


class Machines:
    """All machines in `where`'s directories; what is missing to use one is fetched when it is needed."""

    def __init__(self, where: Surroundings, *, report: Report = silent) -> None:
        self.store = MachineStore(where.directories)
        self._workshop = Workshop(where, report=report)

    def names(self) -> list[str]:
        """The machines there are, running or not."""
        return self.store.names()

    def open(self, name: str) -> Machine:
        """The machine `name`. Raises `UsageError` where there is none."""
        self.store.require(name)
        return Machine(self.store, name, self._workshop.program)
