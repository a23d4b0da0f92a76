"""Where machines live on disk: one directory each for what lasts, one for what runs."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tdxstack.errors import MalformedError, UnavailableError, UsageError
from tdxstack.files import Directories, is_locked, lock, make_private, write_atomically

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


def check_name(name: str) -> None:
    """Raise `UsageError` unless `name` can name a machine, its directories and its process."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"machine name {name!r} is not usable",
            hint="use 1 to 32 lower-case letters, digits and hyphens, with no hyphen at an end",
        )


@dataclass(frozen=True, slots=True)
class MachineFiles:
    """The files of one machine."""

    directory: Path
    runtime: Path

    @property
    def state(self) -> Path:
        return self.directory / "state.json"

    @property
    def spec(self) -> Path:
        """What the machine was asked to be."""
        return self.directory / "spec.json"

    @property
    def owner(self) -> Path:
        """Held by the process that an automatically destroyed machine belongs to."""
        return self.directory / "owner.lock"

    @property
    def tpm_state(self) -> Path:
        """Directory of what the TPM keeps."""
        return self.directory / "tpm"

    @property
    def disk(self) -> Path:
        return self.directory / "disk.qcow2"

    def overlay(self, number: int) -> Path:
        """What takes the writes to a disk: 0 for that to boot from, then the others in order."""
        return self.directory / f"disk{number}.qcow2" if number else self.disk

    @property
    def variables(self) -> Path:
        """The variables of a firmware in flash."""
        return self.directory / "variables.fd"

    @property
    def authorized_key(self) -> Path:
        return self.directory / "authorized_key.pub"

    @property
    def ssh_key(self) -> Path:
        """The private key that may enter this machine."""
        return self.directory / "ssh_key"

    @property
    def known_hosts(self) -> Path:
        """The guest's SSH host key as its channel showed it."""
        return self.directory / "known_hosts"

    @property
    def evidence(self) -> Path:
        return self.directory / "evidence.json"

    @property
    def collateral(self) -> Path:
        """What the evidence was verified with."""
        return self.directory / "collateral.json"

    @property
    def result(self) -> Path:
        return self.directory / "result.json"

    @property
    def console_log(self) -> Path:
        return self.directory / "console.log"

    @property
    def qemu_log(self) -> Path:
        return self.directory / "qemu.log"

    @property
    def lock(self) -> Path:
        """Held by QEMU: locked means running. Not in the runtime directory, which ends with a log-in."""
        return self.directory / "lock"

    @property
    def events(self) -> Path:
        """What QEMU says of the machine, as it says it: a QMP event a line."""
        return self.directory / "events.jsonl"

    @property
    def handshake(self) -> Path:
        """What the monitor that writes the events is told."""
        return self.directory / "handshake"

    @property
    def monitor(self) -> Path:
        return self.runtime / "qmp"

    @property
    def agent(self) -> Path:
        """The channel of the guest agent."""
        return self.runtime / "agent"

    @property
    def tpm_socket(self) -> Path:
        return self.runtime / "tpm"

    @property
    def gdb(self) -> Path:
        """Where QEMU's gdb stub listens, while the machine is debugged."""
        return self.runtime / "gdb"

    @property
    def console_socket(self) -> Path:
        return self.runtime / "console"


@dataclass(frozen=True, slots=True)
class MachineState:
    """What is remembered of a machine."""

    name: str
    platform: str
    emulated: bool
    pid: int
    ssh_port: int
    started: str
    """UTC, ISO 8601; empty before the first start."""
    argv: list[str]
    kind: str = "td"
    quoting: bool = False
    """Whether it needs the user's own quote generation service."""
    tpm: list[str] = field(default_factory=list)
    """The command of its TPM, which runs as long as QEMU does; empty without one."""
    pinning: dict[str, list[int]] = field(default_factory=dict)
    """CPUs of the host that a vCPU runs on, by the vCPU's number."""
    autodestroy: bool = False
    """Whether it ends, and is removed, with the process that made it."""


class MachineStore:
    """All machines of one user."""

    def __init__(self, directories: Directories) -> None:
        self.directories = directories
        self._data = directories.data / "machines"
        self._runtime = directories.runtime / "machines"

    def files(self, name: str) -> MachineFiles:
        """Where a machine of that name is or would be; `UsageError` for what is no name."""
        check_name(name)
        return MachineFiles(self._data / name, self._runtime / name)

    @contextlib.contextmanager
    def claim(self, name: str) -> Iterator[None]:
        """Be the only one who starts, controls or ends a machine; `UnavailableError` if another is at it."""
        check_name(name)
        path = self._data / f".{name}.lock"
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(lock(path, wait=False))
            except UnavailableError:
                raise UnavailableError(
                    f"machine {name!r} is in use by another process, which starts, controls or ends it",
                    hint="wait for it to end",
                ) from None
            try:
                yield
            finally:
                if not self.files(name).directory.exists():
                    path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def allocating(self) -> Iterator[None]:
        """Be the only one who gives machines what no two may have."""
        with lock(self._data / ".allocation.lock"):
            yield

    def prepare(self, name: str) -> MachineFiles:
        """Make the directories of a machine that is about to start, without what an earlier one has left."""
        self.remove(name)
        files = self.files(name)
        make_private(files.directory)
        make_private(files.runtime)
        return files

    def names(self) -> list[str]:
        """The machines there are, running or not."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(entry.name for entry in self._data.iterdir() if (entry / "state.json").exists())
        return []

    def require(self, name: str) -> None:
        """Raise `UsageError` where there is no such machine."""
        if not self.files(name).state.exists():
            raise self._unknown(name)

    def load(self, name: str) -> MachineState:
        """The remembered state; `UsageError` where there is no such machine."""
        path = self.files(name).state
        try:
            return MachineState(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            raise self._unknown(name) from None
        except (ValueError, TypeError) as error:
            raise MalformedError(
                f"{path} is not a machine's state: {error}", hint=f"run: tdx down {name}"
            ) from None

    def save(self, state: MachineState) -> None:
        document = json.dumps(asdict(state), indent=2).encode()
        write_atomically(self.files(state.name).state, document, mode=0o600)

    def is_running(self, name: str) -> bool:
        return is_locked(self.files(name).lock)

    def remove(self, name: str) -> None:
        """Forget a machine and delete its files."""
        files = self.files(name)
        for directory in (files.runtime, files.directory):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(directory)

    def clear_unfinished(self) -> None:
        """Delete what is left of machines that a process was making, or removing, when it was killed."""
        for entry in self._data.iterdir() if self._data.exists() else ():
            if NAME.fullmatch(entry.name) and not self.files(entry.name).state.exists():
                with contextlib.suppress(UnavailableError), self.claim(entry.name):
                    if not self.files(entry.name).state.exists():
                        self.remove(entry.name)

    def _unknown(self, name: str) -> UsageError:
        known = ", ".join(self.names()) or "none; `tdx vm create` makes one"
        return UsageError(f"there is no machine {name!r}", hint=f"machines here: {known}")
