"""QEMU's firmware descriptors: JSON files that say which firmware there is and what it can do.

Source: QEMU docs/interop/firmware.json. Only what is needed to load a firmware with -bios is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from tdxstack.errors import MalformedError

MAX_SIZE = 1 << 20
ARCHITECTURE = "x86_64"
HINT = "repair the descriptor, or hide it by an empty file of the same name in /etc/qemu/firmware"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One firmware.

    `filename` is the image that is loaded into memory, None where it needs flash and a variable store.
    `machines` are patterns of x86_64 machine types that can run it.
    """

    description: str
    filename: str | None
    machines: tuple[str, ...]
    features: frozenset[str]

    @classmethod
    def parse(cls, data: bytes) -> Descriptor:
        """Read a descriptor. Raises `MalformedError`, which names the member that is wrong."""
        if len(data) > MAX_SIZE:
            raise _bad(f"{len(data)} bytes long, at most {MAX_SIZE} are read")
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            raise _bad("not JSON") from None
        root = _object(document, "the document")
        return cls(
            description=_text(_member(root, "description"), "description"),
            filename=_filename(_object(_member(root, "mapping"), "mapping")),
            machines=_machines(_list(_member(root, "targets"), "targets")),
            features=frozenset(_texts(_member(root, "features"), "features")),
        )

    def runs_on(self, machine: str) -> bool:
        """Whether an x86_64 machine type, such as pc-q35-10.1, is among the targets."""
        return any(fnmatchcase(machine, pattern) for pattern in self.machines)


def _filename(mapping: Mapping[str, Any]) -> str | None:
    """The image, for device `memory`, or `flash` in `stateless` mode, which TDs load in the same way."""
    device = _text(_member(mapping, "device"), "mapping.device")
    if device == "memory":
        return _text(_member(mapping, "filename"), "mapping.filename")
    if device != "flash" or mapping.get("mode") != "stateless":
        return None
    executable = _object(_member(mapping, "executable"), "mapping.executable")
    if executable.get("format") != "raw":
        return None
    return _text(_member(executable, "filename"), "mapping.executable.filename")


def _machines(targets: list[Any]) -> tuple[str, ...]:
    machines: list[str] = []
    for target in targets:
        fields = _object(target, "targets[]")
        if _text(_member(fields, "architecture"), "targets[].architecture") == ARCHITECTURE:
            machines += _texts(_member(fields, "machines"), "targets[].machines")
    return tuple(machines)


def _member(container: Mapping[str, Any], key: str) -> Any:
    if key not in container:
        raise _bad(f"without {key!r}")
    return container[key]


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _bad(f"wrong: {what} is not an object")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise _bad(f"wrong: {what} is not a list")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise _bad(f"wrong: {what} is not a text")
    return value


def _texts(value: Any, what: str) -> list[str]:
    return [_text(item, what) for item in _list(value, what)]


def _bad(problem: str) -> MalformedError:
    return MalformedError(f"the firmware descriptor is {problem}", hint=HINT)
