"""What the REPORTDATA of tdxstack's evidence says: this nonce, and this SSH host key."""

from __future__ import annotations

import base64
import binascii
import hashlib

from tdxstack.abi.binary import exactly
from tdxstack.errors import MalformedError

LABEL = b"tdxstack evidence v1"
NONCE_SIZE = 32

NOT_A_KEY = "give a public key as OpenSSH writes it: one line, such as /etc/ssh/ssh_host_ed25519_key.pub"


def report_data(nonce: bytes, host_key: bytes) -> bytes:
    """The 64 bytes of REPORTDATA: SHA-512(`LABEL` | nonce | host_key).

    `nonce` has 32 bytes. `host_key` is the guest's SSH host public key as the SSH wire blob of
    RFC 4253 section 6.6, which is what `host_key_blob` returns and what an SSH client is shown;
    empty where the evidence travels over another channel.
    """
    exactly(nonce, NONCE_SIZE, "nonce")
    return hashlib.sha512(LABEL + nonce + host_key).digest()


def host_key_blob(line: bytes) -> bytes:
    """The SSH wire blob in a public key line, `<type> <base64> [comment]`. Raises `MalformedError`."""
    fields = line.split()
    if len(fields) < 2:
        raise MalformedError(f"{line[:40]!r} is not an SSH public key", hint=NOT_A_KEY)
    try:
        blob = base64.b64decode(fields[1], validate=True)
    except binascii.Error:
        raise MalformedError(f"the SSH public key {fields[1][:40]!r} is not base64", hint=NOT_A_KEY) from None
    if not blob.startswith(len(fields[0]).to_bytes(4, "big") + fields[0]):
        raise MalformedError(f"the SSH public key is not one of type {fields[0][:40]!r}", hint=NOT_A_KEY)
    return blob
