"""GRUB's configuration, followed as far as it goes straight: no menus, conditions or functions.

Source: GNU GRUB manual 2.12.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from tdxstack.errors import MalformedError

MAX_COMMANDS, MAX_NESTED = 1000, 16
_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")
_IGNORED = frozenset({"insmod", "echo", "true", "terminal_input", "terminal_output", "loadfont"})

HINT = "only straight configurations are followed: search, set, configfile, linux, initrd, boot"


class FileSystem(Protocol):
    """Files by path."""

    def read(self, path: str) -> bytes | None:
        """The content, or None."""


@dataclass(frozen=True, slots=True)
class GrubBoot:
    """What GRUB starts: the kernel, its initrds one behind the other, and the command line it passes on."""

    kernel_path: str
    kernel: bytes
    initrd: bytes
    command_line: str


def follow(start: FileSystem, path: str, by_uuid: Mapping[str, FileSystem]) -> GrubBoot:
    """Follow the configuration at `path` of `start`, where GRUB lies, until it starts a kernel.

    Raises `MalformedError` for anything that it does which is not understood, or that is not there.
    """
    run = _Run(start, by_uuid)
    run.configuration(path, MAX_NESTED)
    if run.kernel is None:
        raise _bad(f"{path} starts no kernel")
    kernel_path, kernel, words = run.kernel
    line = " ".join([f"BOOT_IMAGE={kernel_path}", *words])
    return GrubBoot(kernel_path, kernel, run.initrd, line)


class _Run:
    def __init__(self, start: FileSystem, by_uuid: Mapping[str, FileSystem]) -> None:
        self._root = start
        self._by_uuid = by_uuid
        self._variables: dict[str, str] = {}
        self._left = MAX_COMMANDS
        self._booted = False
        self.kernel: tuple[str, bytes, list[str]] | None = None
        self.initrd = b""

    def configuration(self, path: str, depth: int) -> None:
        """Run the commands of a file, and of at most `depth` files that it leads to."""
        if not depth:
            raise _bad(f"{path} does not come to an end")
        text = self._file(path).decode("utf-8", "surrogateescape")
        for number, line in enumerate(text.splitlines(), 1):
            try:
                words = _words(line)
            except ValueError:
                raise _bad(f"{path}, line {number}: {line[:80]!r} is not understood") from None
            if words and not self._booted:
                self._left -= 1
                if self._left < 0:
                    raise _bad(f"{path} does not come to an end")
                expanded = [self._expand(word) for word in words]
                self._command(expanded, f"{path}, line {number}", depth)

    def _command(self, words: list[str], place: str, depth: int) -> None:
        name, arguments = words[0], words[1:]
        match name:
            case "search":
                self._search(arguments, place)
            case "set" if len(arguments) == 1 and "=" in arguments[0]:
                key, _, value = arguments[0].partition("=")
                if key == "root":
                    raise _bad(f"{place}: it names a device {value!r}, not a file system")
                self._variables[key] = value
            case "configfile" if len(arguments) == 1:
                self.configuration(_path(arguments[0], place), depth - 1)
                self._booted = True
            case "linux" | "linuxefi" if arguments:
                path = _path(arguments[0], place)
                self.kernel = (path, self._file(path), arguments[1:])
                self.initrd = b""
            case "initrd" | "initrdefi" if arguments:
                self.initrd = b"".join(self._file(_path(path, place)) for path in arguments)
            case "boot":
                self._booted = True
            case _ if name not in _IGNORED:
                raise _bad(f"{place}: the command {name!r} is not followed")

    def _search(self, arguments: list[str], place: str) -> None:
        names = [word for word in arguments if not word.startswith("-")]
        sets_root = any(word in ("--set", "--set=root") for word in arguments)
        if len(names) == 2 and names[0] == "root":
            names = names[1:]  # --set root NAME
        if "--fs-uuid" not in arguments or len(names) != 1 or not sets_root:
            raise _bad(f"{place}: this search is not understood: {' '.join(arguments)[:80]!r}")
        found = self._by_uuid.get(names[0])
        if found is None:
            raise _bad(f"{place}: no file system {names[0]!r} that can be read is on the disk")
        self._root = found

    def _file(self, path: str) -> bytes:
        data = self._root.read(path)
        if data is None:
            raise _bad(f"there is no file {path}")
        return data

    def _expand(self, word: str) -> str:
        return _VARIABLE.sub(lambda match: self._variables.get(match[1] or match[2], ""), word)


def _words(line: str) -> list[str]:
    """The words of a line. Raises `ValueError` where quotes are open, or keep a variable from being one."""
    if "'" in line and "$" in line:
        raise ValueError
    return shlex.split(line, comments=True)


def _path(word: str, place: str) -> str:
    if not word.startswith("/"):
        raise _bad(f"{place}: {word[:80]!r} is no path on GRUB's root device")
    return word


def _bad(problem: str) -> MalformedError:
    return MalformedError(f"GRUB's configuration: {problem}", hint=HINT)
