"""A recorded boot as files that the commands read, and the command line in this process."""

from __future__ import annotations

import base64
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tdxstack.cli import main
from tests.recorded_boot import Keys, Recorded


@dataclass(frozen=True)
class Files:
    """What a relying party holds."""

    quote: Path
    collateral: Path
    root: Path
    event_log: Path
    evidence: Path
    key: Path
    nonce: str
    at: str

    def options(self) -> list[str]:
        """With these an emulated quote is accepted."""
        return [
            "--collateral", str(self.collateral),
            "--trust-anchor", str(self.root),
            "--allow", "emulated",
            "--at", self.at,
        ]  # fmt: skip


def write_files(directory: Path, boot: Recorded, keys: Keys) -> Files:
    """`boot` in files below `directory`."""
    files = Files(
        directory / "quote.bin",
        directory / "collateral.json",
        directory / "root.pem",
        directory / "ccel.bin",
        directory / "evidence.json",
        directory / "key.pub",
        boot.evidence.nonce.hex(),
        boot.time.isoformat(),
    )
    files.quote.write_bytes(boot.evidence.quote)
    files.collateral.write_bytes(boot.collateral.to_json())
    files.root.write_bytes(keys.root.public_bytes(Encoding.PEM))
    files.event_log.write_bytes(boot.evidence.ccel_data or b"")
    files.evidence.write_text(boot.evidence.to_json())
    files.key.write_bytes(b"ssh-ed25519 " + base64.b64encode(boot.evidence.host_key) + b" host\n")
    return files


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> Done:
    """Run a command as the program does."""
    capsys.readouterr()
    with _own_signals(), pytest.raises(SystemExit) as caught:
        main(list(arguments))
    captured = capsys.readouterr()
    code = caught.value.code
    return Done(code if isinstance(code, int) else 0, captured.out, captured.err)


@contextmanager
def _own_signals() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
