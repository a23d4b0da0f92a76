"""The support bundle: a host's answers without secrets, what they mean, and back again."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from tdxstack import __version__, files
from tdxstack.errors import MalformedError, UnavailableError
from tdxstack.host.chain import CHAIN
from tdxstack.host.check import Circumstances
from tdxstack.host.diagnosis import SCHEMA, diagnose
from tdxstack.host.recording import Answers, RecordedHost, Recorder
from tdxstack.host.redaction import Redactor
from tdxstack.host.summary import to_json
from tdxstack.host_access import Host

ANSWERS: Final = "answers.json"
DIAGNOSIS: Final = "doctor.json"
README: Final = "README.txt"
MAX_SIZE: Final = 64 << 20
"""Bytes of a bundle, and of each file in it, that are read."""

_README = """\
A report of a host on its way to TDX, made by: tdx host report

answers.json  what the host answered, question by question
doctor.json   what tdx doctor made of that

Read it again with: tdx doctor --from THIS
Secrets, keys, tokens, addresses, names and serial numbers have been taken out. Look it through before
you send it to anybody all the same.
"""


@dataclass(frozen=True, slots=True)
class Recording:
    """A host's answers, and the circumstances in which they were given."""

    answers: Answers
    circumstances: Circumstances

    @property
    def host(self) -> RecordedHost:
        """A host that gives these answers."""
        return RecordedHost(self.answers)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "tdxstack": __version__,
            "taken": self.circumstances.now.isoformat(),
            "network": self.circumstances.network,
            "emulator": self.circumstances.emulator,
            "answers": self.answers,
        }

    @classmethod
    def parse(cls, data: bytes) -> Recording:
        """Read answers.json. Raises `MalformedError`."""
        try:
            document = json.loads(data)
            schema, answers, network = document["schema"], document["answers"], document["network"]
            taken, emulator = datetime.fromisoformat(document["taken"]), document["emulator"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise _bad(f"its {ANSWERS} is not what tdx host report writes") from None
        if schema != SCHEMA:
            raise _bad(f"it has schema {str(schema)[:20]}, this version reads {SCHEMA}")
        whole = isinstance(answers, dict) and all(isinstance(answer, dict) for answer in answers.values())
        typed = isinstance(network, bool) and isinstance(emulator, str) and taken.tzinfo is not None
        if not whole or not typed:
            raise _bad(f"its {ANSWERS} is not what tdx host report writes")
        recording = cls(answers, Circumstances(taken, network, emulator))
        recording.host.check()
        return recording


@dataclass(frozen=True, slots=True)
class Report:
    """A recording that may leave its machine, its diagnosis, and how much was taken out, by kind."""

    recording: Recording
    diagnosis: dict[str, Any]
    removed: dict[str, int]

    @property
    def contents(self) -> dict[str, bytes]:
        """The files of the report, by name."""
        return {
            README: _README.encode(),
            DIAGNOSIS: _json(self.diagnosis),
            ANSWERS: _json(self.recording.to_json()),
        }

    def write(self, path: Path) -> None:
        """Write a tar archive that only its owner can read."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name, data in self.contents.items():
                member = tarfile.TarInfo(f"tdx-host-report/{name}")
                member.size, member.mode = len(data), 0o644
                archive.addfile(member, io.BytesIO(data))
        files.write_atomically(path, buffer.getvalue(), mode=0o600)


def collect(host: Host, circumstances: Circumstances, names: Sequence[str]) -> Report:
    """Ask `host` all that a diagnosis asks, and take out what may not leave it; `names` are its own."""
    recorder = Recorder(host)
    to_json(diagnose(recorder, circumstances, CHAIN), recorder, circumstances, recorded=None)
    redactor = Redactor(names)
    clean = Recording(redactor.redact(recorder.answers), circumstances)
    diagnosis = diagnose(clean.host, circumstances, CHAIN)
    document = to_json(diagnosis, clean.host, circumstances, recorded=circumstances.now)
    return Report(clean, document, dict(redactor.removed))


def read(path: Path) -> Recording:
    """The recording in a bundle, which is a tar archive or a directory that one was unpacked into.

    Nothing is unpacked: of an archive only the one file is read, at most 64 MiB long. Raises `MalformedError`
    for what is no bundle, `UnavailableError` for what cannot be read.
    """
    try:
        return Recording.parse(_from_directory(path) if path.is_dir() else _from_archive(path))
    except OSError as error:
        raise UnavailableError(
            f"{path} cannot be read: {error.strerror or error}", hint="name what tdx host report has written"
        ) from None


def _from_directory(path: Path) -> bytes:
    places = (path / ANSWERS, path / "tdx-host-report" / ANSWERS)
    place = next((place for place in places if place.is_file()), None)
    if place is None:
        raise _bad(f"{path} has no {ANSWERS}")
    with place.open("rb") as file:
        return _limited(file.read(MAX_SIZE + 1))


def _from_archive(path: Path) -> bytes:
    size = path.stat().st_size
    if not path.is_file():
        raise _bad(f"{path} is no file")
    if size > MAX_SIZE:
        raise _bad(f"{path} is larger than {MAX_SIZE >> 20} MiB")
    try:
        with tarfile.open(path, mode="r:") as archive:
            for member in archive:
                if member.isreg() and member.name.split("/")[-1] == ANSWERS and member.size <= MAX_SIZE:
                    file = archive.extractfile(member)
                    assert file is not None
                    return _limited(file.read(MAX_SIZE + 1))
    except (tarfile.TarError, ValueError, EOFError, RecursionError) as error:
        raise _bad(f"{path} is no tar archive: {error}") from None
    raise _bad(f"{path} has no {ANSWERS}")


def _limited(data: bytes) -> bytes:
    if len(data) > MAX_SIZE:
        raise _bad(f"its {ANSWERS} is larger than {MAX_SIZE >> 20} MiB")
    return data


def _json(document: object) -> bytes:
    return json.dumps(document, indent=1).encode() + b"\n"


def _bad(problem: str) -> MalformedError:
    return MalformedError(
        f"this is no report of a host: {problem}", hint="make one with: tdx host report -o FILE"
    )
