"""The journal of setting a host up: what was begun and what is done, written before each change."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tdxstack.errors import MalformedError, UnavailableError
from tdxstack.files import lock, make_private, write_atomically
from tdxstack.host.setup_steps import FileStep, Record, Step, checked, written_last

FILE: Final = "journal.json"
VERSION: Final = 1


@dataclass
class Entry:
    """One step: `done` is false from before its change until after it."""

    id: str
    done: bool
    record: Record


@dataclass
class Journal:
    """All steps that were begun, in order."""

    path: Path
    entries: list[Entry] = field(default_factory=list)

    def begin(self, step: Step) -> Entry:
        """Write down a step before it is done.

        Of a file that an earlier step of the same name has written, the content that it had at first is kept.
        """
        record = step.record()
        known = next((entry for entry in self.entries if entry.id == step.id), None)
        if known and isinstance(step, FileStep) and written_last(known.record, step.before):
            record["before"] = known.record["before"]
        if known and record["kind"] == "packages":
            record["packages"] = [*dict.fromkeys([*known.record["packages"], *record["packages"]])]
        entry = Entry(step.id, False, record)
        if known:
            self.entries[self.entries.index(known)] = entry
        else:
            self.entries.append(entry)
        self._write()
        return entry

    def finish(self, entry: Entry) -> None:
        """Write down that a step is done."""
        entry.done = True
        self._write()

    def drop(self, entry: Entry) -> None:
        """Forget a step that was undone."""
        self.entries.remove(entry)
        if self.entries:
            self._write()
        else:
            self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        rows = [{"id": entry.id, "done": entry.done, "record": entry.record} for entry in self.entries]
        document = {"version": VERSION, "entries": rows}
        write_atomically(self.path, json.dumps(document, indent=1).encode(), mode=0o600)


@contextlib.contextmanager
def held_journal(folder: Path) -> Iterator[Journal]:
    """The journal of this host, for one process at a time. Raises `UnavailableError` where root is needed."""
    try:
        make_private(folder)
        with lock(folder / "lock", wait=False):
            yield read_journal(folder)
    except PermissionError as error:
        raise UnavailableError(
            f"{error.filename}: {error.strerror}", hint="run as root: sudo tdx …"
        ) from None


def read_journal(folder: Path) -> Journal:
    """The journal as it is; empty where there is none or this user may not see it.

    Raises `MalformedError` where it is damaged.
    """
    path = folder / FILE
    try:
        data = path.read_bytes()
    except (FileNotFoundError, PermissionError):
        return Journal(path)
    try:
        document = json.loads(data)
        entries = [
            Entry(str(row["id"]), bool(row["done"]), checked(dict(row["record"])))
            for row in document["entries"]
        ]
        return Journal(path, entries)
    except (ValueError, KeyError, TypeError, RecursionError, MalformedError) as error:
        raise MalformedError(
            f"{path} is damaged: {error}", hint="look at it; undo by hand what it names, then delete it"
        ) from None
