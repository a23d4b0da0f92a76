"""The public test vectors: where they are, what their index lists, and how their files are read.

They belong to others and are not part of this repository. `TDXSTACK_VECTORS` names their folder; without it
they are looked for beside the checkout. Tests that read them are marked `vectors` and skipped without them.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(
    os.environ.get("TDXSTACK_VECTORS") or Path(__file__).resolve().parents[3] / "shared" / "vectors"
)

PHALA = "Phala-Network+dcap-qvl/"
NEAR = PHALA + "tests/near/contracts/gas-test/tests/quote/"
RUTERI = "Ruteri+dummy-tdx-dcap/httpserver/"
GO_TDX_GUEST = "google+go-tdx-guest/testing/testdata/"
GO_EVENTLOG = "google+go-eventlog/testdata/"
TRUSTEE = "confidential-containers+trustee/deps/"
GUEST_COMPONENTS = "confidential-containers+guest-components/attestation-agent/attester/test/"
DCAP_RS = "automata-network+dcap-rs/data/"
AUTOMATA_SDK = "automata-network+tdx-attestation-sdk/tdx/examples/testdata/"
TEEPOT = "matter-labs+teepot/crates/intel-dcap-api/tests/test_data/"
INTEL_QVL = "intel+confidential-computing.tee.dcap.qvl/Src/AttestationApp/sampleData/"
INTEL_DCAP = "intel+confidential-computing.tee.dcap/"
TRUST_AUTHORITY = "intel+trustauthority-client-for-go/"
CC_API = "cc-api+evidence-api/common/golang/evidence_api/test_data/"
FORTANIX = "fortanix+tdx-measure/tests/fixtures/"
DERIVED = "_derived/"

INDEX = "INDEX.md"
_REPOSITORY = re.compile(r"^### (\S+/\S+)$")
_FILE = re.compile(r"^\| (\S+) \| (\d+) \| ([0-9a-f]{16}) \|")


@dataclass(frozen=True)
class Entry:
    """One file of the index: its size in bytes and the first 16 hex digits of its SHA-256."""

    size: int
    sha256: str


def present() -> bool:
    """Whether the folder is there."""
    return (FOLDER / INDEX).is_file()


def read(name: str) -> bytes:
    """The bytes of a file of the folder."""
    return (FOLDER / name).read_bytes()


def quote(name: str) -> bytes:
    """The bytes of a quote, which some publish as hexadecimal text."""
    data = read(name)
    if name.endswith((".hex", ".txt")):
        return bytes.fromhex(data.decode().strip().removeprefix("0x"))
    return data


def index() -> dict[str, Entry]:
    """The files that the index lists, by their path in the folder."""
    entries: dict[str, Entry] = {}
    prefix = ""
    for line in read(INDEX).decode().splitlines():
        if heading := _REPOSITORY.match(line):
            prefix = heading[1].replace("/", "+") + "/"
        elif row := _FILE.match(line):
            entries[prefix + row[1]] = Entry(int(row[2]), row[3])
    return entries


def derived() -> set[str]:
    """The files that the index describes as a group: those that its author has made."""
    return {DERIVED + path.name for path in (FOLDER / DERIVED).iterdir()}


def fits(name: str, entry: Entry) -> bool:
    """Whether a file is the one that the index describes."""
    data = read(name)
    return len(data) == entry.size and hashlib.sha256(data).hexdigest().startswith(entry.sha256)
