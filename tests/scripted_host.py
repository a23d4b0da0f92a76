"""A host made of public fields. Change the fields and ask again: the world has changed.

    host = ScriptedHost()
    host.files["/proc/cmdline"] = b"nohibernate"
    host.msrs[0x982] = 0b10
    host.commands["systemctl is-active qgsd"] = Output(0, "active\\n", "")
    host.msrs[0x87] = ForbiddenError("/dev/cpu/0/msr may not be used by this user", hint="sudo rdmsr 0x87")

Any answer may be an error instead, which is then raised. What is not scripted does not exist. `asked` records
the questions.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from tdxstack.exchange import Address
from tdxstack.host_access import (
    COMMAND_SECONDS,
    MAX_READ,
    AbsentError,
    FileStatus,
    HostError,
    KernelLog,
    Output,
    UnansweredError,
    WebAnswer,
)

Answer = TypeVar("Answer")
Key = TypeVar("Key")

MODIFIED = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass
class ScriptedHost:
    """A host whose every answer is a field."""

    kvm: dict[int, int | HostError] = field(default_factory=dict)
    """Values of KVM's capabilities; without any there is no /dev/kvm."""
    files: dict[str, bytes | HostError] = field(default_factory=dict)
    directories: dict[str, tuple[str, ...] | HostError] = field(default_factory=dict)
    """Names in directories that `files` and `statuses` do not show."""
    statuses: dict[str, FileStatus | HostError] = field(default_factory=dict)
    msrs: dict[int, int | HostError] = field(default_factory=dict)
    log: KernelLog | HostError = field(default_factory=lambda: KernelLog((), "/dev/kmsg", complete=True))
    release: str = "6.18.0"
    programs: dict[str, str] = field(default_factory=dict)
    commands: dict[str, Output | HostError] = field(default_factory=dict)
    """By command line as a shell would have it; a program of which a command is scripted exists."""
    peers: dict[str, bytes | HostError] = field(default_factory=dict)
    """Answers of sockets, by path or "cid:port"."""
    pages: dict[str, WebAnswer | HostError] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def kvm_extension(self, capability: int) -> int:
        self.asked.append(f"kvm {capability}")
        if not self.kvm:
            raise AbsentError("/dev/kvm does not exist", hint="load kvm_intel on a machine with VT-x")
        return _answer(self.kvm.get(capability, 0))

    def read(self, path: str, *, limit: int = MAX_READ) -> bytes:
        self.asked.append(f"read {path}")
        return _answer(_look_up(self.files, path, path))[:limit]

    def entries(self, path: str) -> tuple[str, ...]:
        self.asked.append(f"entries {path}")
        if path in self.directories:
            return _answer(self.directories[path])
        below = path.rstrip("/") + "/"
        names = {
            name.removeprefix(below).split("/")[0]
            for name in (*self.files, *self.statuses)
            if name.startswith(below)
        }
        if not names:
            raise AbsentError(f"{path} does not exist", hint=f"ls -l {path}")
        return tuple(sorted(names))

    def status(self, path: str) -> FileStatus:
        self.asked.append(f"status {path}")
        if path in self.statuses:
            return _answer(self.statuses[path])
        data = _answer(_look_up(self.files, path, path))
        return FileStatus("file", 0o644, "root", "root", len(data), MODIFIED)

    def msr(self, number: int) -> int:
        self.asked.append(f"msr {number:#x}")
        return _answer(_look_up(self.msrs, number, f"MSR {number:#x}"))

    def kernel_log(self) -> KernelLog:
        self.asked.append("kernel_log")
        return _answer(self.log)

    def kernel_release(self) -> str:
        self.asked.append("kernel_release")
        return self.release

    def program(self, name: str) -> str:
        self.asked.append(f"program {name}")
        if name in self.programs:
            return self.programs[name]
        if any(shlex.split(command)[0] == name for command in self.commands):
            return f"/usr/bin/{name}"
        raise AbsentError(f"there is no program {name}", hint=f"command -v {name}")

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = COMMAND_SECONDS) -> Output:
        command = shlex.join(argv)
        self.asked.append(f"run {command}")
        return _answer(_look_up(self.commands, command, argv[0]))

    def exchange(self, address: Address, message: bytes, *, timeout: float) -> bytes:
        name = f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)
        self.asked.append(f"exchange {name}")
        return _answer(_look_up(self.peers, name, name))

    def fetch(self, url: str, *, timeout: float) -> WebAnswer:
        self.asked.append(f"fetch {url}")
        if url not in self.pages:
            raise UnansweredError(f"{url}: Connection refused", hint=f"curl -v {url}")
        return _answer(self.pages[url])


def _look_up(answers: Mapping[Key, Answer | HostError], key: Key, name: str) -> Answer | HostError:
    return answers.get(key, AbsentError(f"{name} does not exist", hint=f"ls -l {name}"))


def _answer(answer: Answer | HostError) -> Answer:
    if isinstance(answer, HostError):
        raise answer
    return answer
