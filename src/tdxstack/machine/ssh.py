"""Into a machine by SSH: as root, with the key of this machine, to a host key that is remembered."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tdxstack.errors import MalformedError, UnavailableError
from tdxstack.machine.store import MachineFiles

USER = "root@127.0.0.1"
IN_GUEST = f"{USER}:"
"""What stands before a path in the guest, for scp."""

ALIAS = "guest"
"""The name by which a machine's file of known hosts has its key: the port differs from start to start."""

HOST_KEY_TYPE = "ssh-ed25519"
CONNECT_SECONDS = 60
SSH_FAILED = 255
"""Exit code of ssh for a failure of its own."""


@dataclass(frozen=True, slots=True)
class Ssh:
    """How to reach one machine."""

    program: tuple[str, ...]
    port: int
    identity: Path
    known_hosts: Path

    def argv(self, command: Sequence[str] = (), *, trust_new_key: bool = False) -> list[str]:
        """The argument vector of ssh.

        With `trust_new_key` the host key of a first connection is recorded, to be proved by evidence
        afterwards; without it, only the recorded key is accepted.
        """
        options = self._options(trust_new_key=trust_new_key)
        return [*self.program, "-p", str(self.port), *options, USER, *(["--", *command] if command else [])]

    def copy_argv(
        self,
        scp: Sequence[str],
        source: str,
        target: str,
        *,
        recursive: bool = False,
        trust_new_key: bool = False,
    ) -> list[str]:
        """The argument vector of scp; a path in the guest stands behind `IN_GUEST`."""
        options = self._options(trust_new_key=trust_new_key)
        whole = ["-r"] if recursive else []
        return [*scp, "-S", self.program[0], "-P", str(self.port), *options, *whole, "--", source, target]

    def _options(self, *, trust_new_key: bool) -> list[str]:
        # fmt: off
        return [
            "-F", "none",
            "-i", str(self.identity),
            "-o", "IdentitiesOnly=yes",
            "-o", "BatchMode=yes",
            "-o", f"ConnectTimeout={CONNECT_SECONDS}",
            "-o", f"UserKnownHostsFile={self.known_hosts}",
            "-o", "GlobalKnownHostsFile=none",
            "-o", f"HostKeyAlias={ALIAS}",
            "-o", f"StrictHostKeyChecking={'accept-new' if trust_new_key else 'yes'}",
            "-o", f"HostKeyAlgorithms={HOST_KEY_TYPE}",
            "-o", "UpdateHostKeys=no",
            "-o", "LogLevel=ERROR",
        ]
        # fmt: on


def seen_host_key(files: MachineFiles) -> bytes:
    """The host key (SSH wire form) that the guest's channel showed when it was first used."""
    try:
        lines = files.known_hosts.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        raise UnavailableError("the guest's SSH channel was never used", hint="run: tdx up") from None
    keys = [fields[2] for line in lines if len(fields := line.split()) >= 3 and fields[1] == HOST_KEY_TYPE]
    if len(keys) != 1:
        raise MalformedError(f"{files.known_hosts} holds {len(keys)} host keys, expected 1")
    return base64.b64decode(keys[0])
