"""`tdx quote verify` of a directory."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click

from tdxstack.cli.evidence_input import read_evidence
from tdxstack.cli.progress import ProgressDisplay, progress_display
from tdxstack.cli.verification_options import VerificationOptions, fetched, read_bounded
from tdxstack.collateral.bundle import Collateral
from tdxstack.collateral.reading import MAX_SIZE, read_all
from tdxstack.errors import UsageError
from tdxstack.verification.policy import AnyPolicy
from tdxstack.verification.result import ACCEPTED, REJECTED
from tdxstack.workflows.quote_batch import Terms, Workers, files_below, platforms_of


def verify_directory(
    directory: Path, options: VerificationOptions, policy: AnyPolicy, jobs: int | None
) -> int:
    """Verify every file below `directory`: a line of JSON for each on stdout, the summary on stderr."""
    names = files_below(directory)
    if not names:
        raise UsageError(f"there are no files below {directory}", hint="give a directory of quotes")
    collateral = _collateral(directory, names, options)
    terms = Terms(collateral, options.time, options.anchors, policy)
    counts = {ACCEPTED: 0, REJECTED: 0, None: 0}
    workers = Workers(directory, terms, read_evidence, min(jobs or _cores(), len(names)))
    with workers, progress_display() as display:
        for number, line in enumerate(workers.verify(names), start=1):
            counts[line.verdict] += 1
            click.echo(json.dumps(line.to_json()))
            _show(display, number, len(names))
    click.echo(
        f"{len(names)} quotes: {counts[ACCEPTED]} accepted, {counts[REJECTED]} rejected,"
        f" {counts[None]} not verifiable",
        err=True,
    )
    return 0 if counts[ACCEPTED] == len(names) else 1


def _show(display: ProgressDisplay, number: int, total: int) -> None:
    # On a terminal the lines themselves are the progress.
    if not sys.stdout.isatty():
        display.report(f"verified {number} of {total} quotes", number / total)


def _collateral(directory: Path, names: list[str], options: VerificationOptions) -> tuple[Collateral, ...]:
    """All that the file has, or what is fetched for each platform that the quotes are from."""
    if options.collateral is not None:
        return read_all(read_bounded(options.collateral, MAX_SIZE))
    source = options.require_source()
    platforms = sorted(platforms_of(directory, names, read_evidence), key=str)
    if not platforms:
        raise UsageError(
            f"no quote below {directory} says which platform it is from", hint="give --collateral FILE"
        )
    return tuple(fetched(source, platform) for platform in platforms)


def _cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0))
