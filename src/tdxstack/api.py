"""For programs: machines of the user who runs the program. See docs/how-to/use-from-python.md.

This is an edge, as the command line is: where no surroundings are given, the environment is asked for them.
"""

from __future__ import annotations

from tdxstack.cli.edge import surroundings
from tdxstack.machine import machine
from tdxstack.machine.control import RebootMode, StopMode
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_file import read_spec
from tdxstack.machine.spec_parts import Kind
from tdxstack.workflows.machines import Launch, Machines
from tdxstack.workflows.workshop import Surroundings

__all__ = ["Kind", "Machine", "MachineSpec", "RebootMode", "StopMode", "machines", "read_spec"]


class Machine(machine.Machine):
    """A machine, and how to come by one."""

    @classmethod
    def launch(cls, spec: MachineSpec, where: Surroundings | None = None) -> Launch:
        """A machine for a `with` block, or `async with`; see `Machines.launch`."""
        return machines(where).launch(spec)

    @classmethod
    def create(cls, spec: MachineSpec, where: Surroundings | None = None) -> machine.Machine:
        """A machine that lasts; see `Machines.create`."""
        return machines(where).create(spec)

    @classmethod
    def open(cls, name: str, where: Surroundings | None = None) -> machine.Machine:
        """The machine of that name; see `Machines.open`."""
        return machines(where).open(name)


def machines(where: Surroundings | None = None) -> Machines:
    """All machines of the user, or of those `where`."""
    return Machines(where or surroundings())
