"""Evidence that a running TD is asked for."""

from __future__ import annotations

from tdxstack.evidence.document import Evidence
from tdxstack.files import write_atomically
from tdxstack.machine.machine import Machine

EVIDENCE_SECONDS = 180.0
GUEST_HOST_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"


def collect_evidence(machine: Machine, nonce: bytes) -> Evidence:
    """Have the guest produce evidence for `nonce` over SSH; keep it in the machine's files.

    The host key that a first connection shows is remembered, for the evidence to prove. Raises `CommandError`
    where SSH or the guest's collection fails, `MalformedError` for anything that is not an evidence document.
    """
    command = ["tdx-guest", "collect", "--host-key", GUEST_HOST_KEY, "--nonce", nonce.hex()]
    done = machine.run(command, timeout=EVIDENCE_SECONDS)
    evidence = Evidence.from_json(done.stdout)
    write_atomically(machine.files.evidence, done.stdout)
    return evidence
