"""Steps of setting a host up. Each can be shown, done and undone, and leaves a record that undoing needs."""

from __future__ import annotations

import base64
import binascii
import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tdxstack.errors import MalformedError, RejectedError
from tdxstack.host.setup_system import System
from tdxstack.run import command_line

Record = dict[str, Any]
"""What undoing a step needs, as JSON has it."""


class Step(Protocol):
    """One change of the host."""

    @property
    def id(self) -> str:
        """Stable and unique within a plan."""

    @property
    def why(self) -> str:
        """What the change is for."""

    def changes(self) -> list[str]:
        """All that it does, as lines to show."""

    def record(self) -> Record:
        """What undoing it needs, taken before it is done."""

    def apply(self, system: System) -> None:
        """Do it.

        Raises `RejectedError` where the host is not as the plan saw it, `CommandError` where a program fails.
        """


@dataclass(frozen=True, slots=True)
class FileStep:
    """Write a file, then run a program that takes it up (`then`, may be empty)."""

    id: str
    why: str
    path: str
    before: bytes | None
    after: bytes
    then: tuple[str, ...] = ()

    def changes(self) -> list[str]:
        old = (self.before or b"").decode("utf-8", "replace").splitlines()
        new = self.after.decode("utf-8", "replace").splitlines()
        lines = [line for line in difflib.ndiff(old, new) if line[0] in "+-"]
        verb = "create" if self.before is None else "change"
        return [f"{verb} {self.path}", *(f"    {line}" for line in lines), *_commands([self.then])]

    def record(self) -> Record:
        kept = None if self.before is None else base64.b64encode(self.before).decode()
        return {
            "kind": "file",
            "path": self.path,
            "before": kept,
            "after": _digest(self.after),
            "then": list(self.then),
        }

    def apply(self, system: System) -> None:
        if system.read(self.path) != self.before:
            raise RejectedError(
                f"{self.path} has changed since the plan was made", hint="run the command again"
            )
        system.write(self.path, self.after)
        if self.then:
            system.change(self.then)


@dataclass(frozen=True, slots=True)
class PackageStep:
    """Install packages that are not installed."""

    id: str
    why: str
    packages: tuple[str, ...]
    install: tuple[tuple[str, ...], ...]
    """Commands, the last of which installs."""
    remove: tuple[str, ...]
    """The command that removes packages, to be followed by their names."""
    query: tuple[str, ...]
    """The command that tells whether the package named behind it is installed."""

    def changes(self) -> list[str]:
        return [f"install {', '.join(self.packages)}", *_commands(self.install)]

    def record(self) -> Record:
        return {
            "kind": "packages",
            "packages": list(self.packages),
            "remove": list(self.remove),
            "query": list(self.query),
        }

    def apply(self, system: System) -> None:
        for command in self.install:
            system.change(command)


@dataclass(frozen=True, slots=True)
class CommandStep:
    """Run a program, for which another undoes it."""

    id: str
    why: str
    command: tuple[str, ...]
    undo: tuple[str, ...]

    def changes(self) -> list[str]:
        return _commands([self.command])

    def record(self) -> Record:
        return {"kind": "command", "undo": list(self.undo)}

    def apply(self, system: System) -> None:
        system.change(self.command)


def is_installed(system: System, query: Sequence[str], package: str) -> bool:
    """Whether a package is installed: the query succeeds, and a status that it prints is `installed`."""
    answer = system.ask([*query, package])
    return answer.returncode == 0 and answer.stdout.strip() in ("", "installed")


def _commands(commands: Sequence[Sequence[str]]) -> list[str]:
    return [f"run {command_line(command)}" for command in commands if command]


def conflict(record: Record, system: System) -> str:
    """Why a step must not be undone: somebody else changed its file. Empty where nothing is against it."""
    if record["kind"] != "file":
        return ""
    now = system.read(record["path"])
    if now is None or _digest(now) in (record["after"], _digest(_before(record))):
        return ""
    return f"{record['path']} was changed after it was set up"


def undo_changes(record: Record) -> list[str]:
    """What undoing a step does, as lines to show."""
    if record["kind"] == "file":
        verb = "delete" if record["before"] is None else "restore"
        return [f"{verb} {record['path']}", *_commands([record["then"]])]
    if record["kind"] == "packages":
        return [f"remove those of {', '.join(record['packages'])} that are installed"]
    return _commands([record["undo"]])


def undo(record: Record, system: System) -> None:
    """Undo a step that was done, or begun. Doing it twice does no harm."""
    if record["kind"] == "file":
        _undo_file(record, system)
    elif record["kind"] == "packages":
        present = [name for name in record["packages"] if is_installed(system, record["query"], name)]
        if present:
            system.change([*record["remove"], *present])
    else:
        system.change(record["undo"])


def _undo_file(record: Record, system: System) -> None:
    before = _before(record)
    if before is None:
        system.remove(record["path"])
    elif system.read(record["path"]) != before:
        system.write(record["path"], before)
    if record["then"]:
        system.change(record["then"])


def written_last(record: Record, data: bytes | None) -> bool:
    """Whether a file step's record is the one that wrote `data`."""
    return bool(record["kind"] == "file" and record["after"] == _digest(data))


def checked(record: Record) -> Record:
    """A record read from a journal. Raises `MalformedError` unless it has the form of one."""
    forms: dict[str, dict[str, tuple[type, ...]]] = {
        "file": {"path": (str,), "before": (str, type(None)), "after": (str,), "then": (list,)},
        "packages": {"packages": (list,), "remove": (list,), "query": (list,)},
        "command": {"undo": (list,)},
    }
    form = forms.get(str(record.get("kind")))
    if form is None or any(not isinstance(record.get(key), types) for key, types in form.items()):
        raise MalformedError("a record has not the form of one", hint="look at the journal")
    lists = [value for value in record.values() if isinstance(value, list)]
    if any(not isinstance(word, str) for value in lists for word in value):
        raise MalformedError("a record has not the form of one", hint="look at the journal")
    if record["kind"] == "file":
        _before(record)
    return record


def _before(record: Record) -> bytes | None:
    if record["before"] is None:
        return None
    try:
        return base64.b64decode(record["before"], validate=True)
    except (ValueError, binascii.Error):
        raise MalformedError("a record has not the form of one", hint="look at the journal") from None


def _digest(data: bytes | None) -> str:
    return "" if data is None else hashlib.sha384(data).hexdigest()
