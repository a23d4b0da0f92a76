"""Make a host ready for TDs with its distribution's packages, step by step, and undo it.

A plan is shown before anything is done. Each step is written into a journal before it is done, so that an
interruption between any two leaves nothing that cannot be completed or undone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tdxstack.errors import RejectedError, UnavailableError
from tdxstack.host.setup_journal import Entry, Journal, held_journal, read_journal
from tdxstack.host.setup_plan import SetupPlan
from tdxstack.host.setup_steps import CommandStep, Record, Step, conflict, undo, undo_changes
from tdxstack.host.setup_system import System

STATE: Final = Path("/var/lib/tdxstack/setup")
LOG: Final = Path("/var/log/tdxstack-setup.log")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _TakenUp:
    """The end of a step that was interrupted after its file was written."""

    id: str
    why: str
    command: tuple[str, ...]
    kept: Record

    def changes(self) -> list[str]:
        return CommandStep(self.id, self.why, self.command, ()).changes()

    def record(self) -> Record:
        return dict(self.kept)

    def apply(self, system: System) -> None:
        system.change(self.command)


def with_interrupted(plan: SetupPlan, state: Path) -> SetupPlan:
    """The plan, with what an interrupted run has left half done in front.

    Where the file of a step is written, and what takes it up was not run, looking at the host shows nothing.
    """
    planned = {step.id for step in plan.steps}
    left = [
        _TakenUp(entry.id, "an earlier run was interrupted here", tuple(entry.record["then"]), entry.record)
        for entry in read_journal(state).entries
        if not entry.done and entry.id not in planned and entry.record.get("then")
    ]
    return replace(plan, steps=(*left, *plan.steps))


def apply_plan(plan: SetupPlan, system: System, state: Path, say: Say) -> None:
    """Do the steps of a plan that was shown. The caller is root and has asked.

    Raises `UnavailableError` with the blockers where there are some, `RejectedError` where the host is no
    longer as the plan saw it, `CommandError` where a program fails; the steps before stay done.
    """
    if plan.blockers:
        raise blocked(plan)
    with held_journal(state) as journal:
        for step in plan.steps:
            say(f"{step.id}: {step.why}")
            _do(step, system, journal)


def _do(step: Step, system: System, journal: Journal) -> None:
    entry = journal.begin(step)
    step.apply(system)
    journal.finish(entry)


def blocked(plan: SetupPlan) -> UnavailableError:
    """The error for a plan that cannot be carried out on this machine."""
    problems = "; ".join(blocker.problem for blocker in plan.blockers)
    return UnavailableError(
        problems, hint="; ".join(dict.fromkeys(blocker.hint for blocker in plan.blockers))
    )


def undo_plan(state: Path) -> list[tuple[Entry, list[str]]]:
    """What undoing would do, last step first. Raises `UnavailableError` where nothing was set up."""
    entries = read_journal(state).entries
    if not entries:
        raise UnavailableError(
            "nothing that tdx host setup has done is known here",
            hint="run as root; if it was undone already, nothing is left to do",
        )
    return [(entry, undo_changes(entry.record)) for entry in reversed(entries)]


def undo_setup(system: System, state: Path, say: Say) -> None:
    """Undo all steps, the last first.

    Raises `RejectedError`, before anything is done, where a file that was written has been changed since, and
    `CommandError` where a program fails; the rest can be undone later.
    """
    with held_journal(state) as journal:
        conflicts = [found for entry in journal.entries if (found := conflict(entry.record, system))]
        if conflicts:
            raise RejectedError(
                "; ".join(conflicts), hint="put the change elsewhere, delete the file, and undo again"
            )
        for entry in reversed(list(journal.entries)):
            say(f"undoing {entry.id}")
            undo(entry.record, system)
            journal.drop(entry)
