"""Long fuzzing with atheris: python -m tests.fuzz TARGET DIRECTORY [options of libFuzzer]."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["tdxstack"]):
    from tests.fuzz.targets import TARGETS

from tests.fuzz.corpus import corpus


def main(arguments: list[str]) -> None:
    """Put the kept corpus of a target into DIRECTORY and let libFuzzer go on from there, until it finds
    something or an option such as -max_total_time=300 ends it."""
    if len(arguments) < 2 or arguments[0] not in TARGETS:
        sys.exit(f"{__doc__}\ntargets: {', '.join(TARGETS)}")
    name, directory = arguments[0], Path(arguments[1])
    directory.mkdir(parents=True, exist_ok=True)
    for data in corpus()[name]:
        (directory / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    options = arguments[2:]
    if not any(Path(option).is_file() for option in options):  # else libFuzzer runs just those files
        options.append(str(directory))
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()


main(sys.argv[1:])
