"""A directory of quotes verified with all cores, against as many bare P-256 verifications on one core."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tdxstack.cli.evidence_input import read_evidence
from tdxstack.quoting.pki import Pki
from tdxstack.workflows.quote_batch import Terms, Workers, files_below
from tests.recorded_boot import pki_in, synthetic_boot

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
QUOTES = 1000
GROUP = f"{QUOTES} quotes in a directory, all cores"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pki]:
    yield pki_in(tmp_path_factory.mktemp("emulated"), NOW)


@pytest.mark.benchmark(group=GROUP)
def test_directory(benchmark: Any, pki: Pki, tmp_path: Path) -> None:
    boot = synthetic_boot(pki, NOW)
    for number in range(QUOTES):
        (tmp_path / str(number)).write_bytes(boot.evidence.quote)
    terms, names = Terms((boot.collateral,), NOW, boot.anchors, boot.policy), files_below(tmp_path)

    def verify() -> int:
        with Workers(tmp_path, terms, read_evidence, len(os.sched_getaffinity(0))) as workers:
            return sum(line.verdict == "accepted" for line in workers.verify(names))

    assert benchmark(verify) == QUOTES


@pytest.mark.benchmark(group=GROUP)
def test_limit_bare_p256_on_one_core(benchmark: Any) -> None:
    key, scheme = ec.generate_private_key(ec.SECP256R1()), ec.ECDSA(hashes.SHA256())
    public, signature = key.public_key(), key.sign(b"quote", scheme)

    def verify() -> None:
        for _ in range(QUOTES):
            public.verify(signature, b"quote", scheme)

    benchmark(verify)
