"""GRUB's configuration, followed as GRUB follows it when nobody touches a key.

What only changes the screen is passed over. Commands that ask the machine, the network or a person are named.

Source: GNU GRUB 2.12, grub-core/normal, script/execute.c, commands and lib/cmdline.c.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tdxstack.errors import MalformedError
from tdxstack.prediction.grub.condition import holds, unknown_operator
from tdxstack.prediction.grub.environment import MAX_SIZE, read_block
from tdxstack.prediction.grub.files import Files, Volume, bad, split
from tdxstack.prediction.grub.menu import Entry, entry_of, number_of, rest_of
from tdxstack.prediction.grub.script import Command, For, Function, If, Script, Statement, While, parse
from tdxstack.prediction.grub.words import Variables

MAX_COMMANDS, MAX_NESTED, MAX_LEVEL = 10000, 16, 100
"""Commands that are run; files and functions that are in each other; statements that are."""
MAX_CONFIGURATION = 1 << 20
MAX_INITRD = 1 << 30
GRUBENV = "grubenv"
FEATURES = (
    *("chainloader_bpb", "ntldr", "platform_search_hint", "default_font_path", "all_video_module"),
    *("menuentry_id", "menuentry_options", "200_final", "nativedisk_cmd", "timeout_style"),
)
TRUE, FALSE = 0, 1

SCREEN = frozenset(
    {
        *("background_color", "background_image", "clear", "cls", "echo", "insmod", "keymap", "loadfont"),
        *("play", "rmmod", "serial", "sleep", "terminal_input", "terminal_output", "true", "videoinfo"),
    }
)
"""Commands that decide nothing on what is started; they count as having succeeded."""
ASKS = frozenset(
    {
        *("acpi", "authenticate", "cmosdump", "cmostest", "cpuid", "date", "getenv", "hdparm", "hwmatch"),
        *("keystatus", "lsefi", "lspci", "net_bootp", "net_dhcp", "pcidump", "probe", "rdmsr", "read"),
        *("smbios", "time", "usb"),
    }
)
"""Commands that ask the machine, the network or a person."""
KINDS = {
    "-u": "uuid",
    "--fs-uuid": "uuid",
    "-l": "label",
    "--label": "label",
    "--fs-label": "label",
    "-f": "file",
    "--file": "file",
}
"""What a search asks for, by its option."""
_SEARCH_OPTION = re.compile(r"--set(?:=(?P<variable>\w+))?|-s|-n|--no-floppy|--efidisk-only|--hint.*")


@dataclass(frozen=True, slots=True)
class GrubBoot:
    """What GRUB starts: the kernel, its initrds one behind the other, and the command line it passes on."""

    kernel_path: str
    kernel: bytes
    initrd: bytes
    command_line: str


def follow(
    start: Volume, path: str, volumes: Sequence[Volume], *, secure_boot: bool, others: Sequence[str] = ()
) -> GrubBoot:
    """Follow the configuration at `path` of `start`, where GRUB lies, until it starts a kernel.

    `volumes` are all file systems that are read, in the order in which GRUB finds them, `others` says in
    words what else there is. Raises `MalformedError` for anything that it does which is not understood, or
    that is not there.
    """
    run = _Run(start, path, Files(volumes, others), secure_boot)
    try:
        run.configuration(path, MAX_NESTED)
    except _Booted as booted:
        return booted.boot
    raise bad(f"{path} starts no kernel")


class _Booted(Exception):
    """A kernel is started."""

    def __init__(self, boot: GrubBoot) -> None:
        super().__init__()
        self.boot = boot


class _Return(Exception):
    """A function ends early."""


class _Run:
    def __init__(self, start: Volume, path: str, files: Files, secure_boot: bool) -> None:
        self._files = files
        self._functions: dict[str, Script] = {}
        self._left = MAX_COMMANDS
        self._depth = MAX_NESTED
        self._level = 0
        self._scopes = 0
        self._name = path
        self._place = path
        self._boot: GrubBoot | None = None
        self._menu: list[Entry] = []
        known = {
            "root": start.device,
            "prefix": f"({start.device}){path.rpartition('/')[0]}",
            "cmdpath": f"({start.device})/EFI/BOOT",
            "grub_cpu": "x86_64",
            "grub_platform": "efi",
            **{f"feature_{name}": "y" for name in FEATURES},
            **({"lockdown": "y", "shim_lock": "y"} if secure_boot else {}),
        }
        self._variables = Variables(known, set(known))
        self._commands: dict[str, Callable[[list[str]], int]] = {
            "[": self._test_to_bracket,
            "test": self._test,
            "false": lambda _: FALSE,
            "set": self._set,
            "unset": lambda words: self._assign(words[0], "") if words else TRUE,
            "export": self._export,
            "load_env": self._load_env,
            "save_env": lambda _: TRUE,
            "search": self._search,
            "search.fs_uuid": lambda words: self._find("uuid", words),
            "search.fs_label": lambda words: self._find("label", words),
            "search.file": lambda words: self._find("file", words),
            "source": self._source,
            ".": self._source,
            "configfile": self._configfile,
            "normal": lambda words: self._configfile(words or [f"{self._variables.get('prefix')}/grub.cfg"]),
            "linux": self._linux,
            "linuxefi": self._linux,
            "initrd": self._initrd,
            "initrdefi": self._initrd,
            "boot": self._start,
            "fwsetup": self._fwsetup,
            "return": self._return,
        }

    def configuration(self, path: str, depth: int) -> None:
        """Run the commands of a file, then its menu. It may lead to at most `depth` further ones."""
        self._file_commands(path, depth)
        if self._menu:
            self._run_menu()

    def _file_commands(self, path: str, depth: int) -> None:
        if not depth:
            raise bad(f"{path} does not come to an end")
        content = self._read(path)
        if len(content) > MAX_CONFIGURATION:
            raise bad(f"{path} has {len(content)} bytes, at most {MAX_CONFIGURATION} are read")
        script = parse(content.decode("utf-8", "surrogateescape"), path)
        device, rest = split(path, self._variables.get("root"))
        whole = f"({device}){rest}"
        before = {name: self._variables.get(name) for name in ("config_file", "config_directory")}
        self._variables.set("config_file", whole, export=True)
        self._variables.set("config_directory", whole.rpartition("/")[0], export=True)
        outer = self._depth, self._name
        self._depth, self._name = depth, path
        self._script(script)
        self._depth, self._name = outer
        for name, value in before.items():
            self._variables.set(name, value)

    def _script(self, script: Script) -> None:
        if self._level == MAX_LEVEL:
            raise bad(f"{self._name} has more than {MAX_LEVEL} statements in each other")
        self._level += 1
        try:
            for statement in script:
                self._statement(statement)
        finally:
            self._level -= 1

    def _statement(self, statement: Statement) -> None:
        match statement:
            case Command():
                self._command(statement)
            case If():
                self._if(statement)
            case Function():
                self._functions[statement.name] = statement.body
            case For():
                for value in self._variables.expand(statement.words):
                    self._count()
                    self._variables.set(statement.variable, value)
                    self._script(statement.body)
            case While():
                while True:
                    self._script(statement.condition)
                    if (self._variables.status == TRUE) == statement.until:
                        break
                    self._count()
                    self._script(statement.body)

    def _if(self, statement: If) -> None:
        for condition, body in statement.branches:
            self._script(condition)
            if self._variables.status == TRUE:
                self._script(body)
                return
        self._script(statement.otherwise)

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise bad(f"{self._name} does not come to an end")

    def _command(self, command: Command) -> None:
        self._count()
        words = self._variables.expand(command.words)
        if not words:
            return
        self._place = f"{self._name}, line {command.words[0].line}"
        inverted = words[0] == "!" and len(words) > 1
        status = self._call(words[inverted:], command.block)
        self._variables.status = int(status == TRUE) if inverted else status

    def _call(self, words: list[str], block: Script | None) -> int:
        first, arguments = words[0], words[1:]
        if first in ("menuentry", "submenu"):
            if block is None or not arguments:
                raise self._problem("a menu entry has no title or no commands")
            self._menu.append(entry_of(arguments, block, submenu=first == "submenu"))
            return TRUE
        if first in self._commands:
            return self._commands[first](arguments)
        if first in SCREEN:
            return TRUE
        if first in ASKS:
            raise self._problem(f"the command {first!r} asks the machine, the network or a person")
        if first in self._functions:
            return self._scoped(self._functions[first], arguments)
        name, equals, value = first.partition("=")
        if not equals:
            raise self._problem(f"the command {first!r} is not followed")
        return self._assign(name, value)

    def _scoped(self, script: Script, arguments: Sequence[str]) -> int:
        """Run a script with arguments of its own."""
        if self._depth <= 1:
            raise bad(f"{self._name} does not come to an end")
        outer, self._variables.arguments = self._variables.arguments, arguments
        self._depth, self._scopes = self._depth - 1, self._scopes + 1
        with contextlib.suppress(_Return):
            self._script(script)
        self._depth, self._scopes = self._depth + 1, self._scopes - 1
        self._variables.arguments = outer
        return self._variables.status

    # what conditions ask

    def size(self, path: str) -> int | None:
        """Bytes of a file; None where there is none."""
        data = self._content(path) if path else None
        return len(data) if data is not None else None

    def is_directory(self, path: str) -> bool:
        """Whether there is such a directory."""
        return bool(path) and self._files.is_directory(path, self._variables.get("root"))

    # commands

    def _content(self, path: str) -> bytes | None:
        return self._files.read(path, self._variables.get("root"))

    def _read(self, path: str) -> bytes:
        data = self._content(path)
        if data is None:
            raise bad(f"there is no file {path}")
        return data

    def _assign(self, name: str, value: str) -> int:
        self._variables.set(name, value)
        return TRUE

    def _test_to_bracket(self, words: list[str]) -> int:
        if words[-1:] != ["]"]:
            raise self._problem("the condition has no closing bracket")
        return self._test(words[:-1])

    def _test(self, words: list[str]) -> int:
        if operator := unknown_operator(words):
            raise self._problem(f"the condition {operator!r} is not followed")
        return TRUE if holds(words, self) else FALSE

    def _set(self, words: list[str]) -> int:
        name, equals, value = words[0].partition("=") if words else ("", "", "")
        return self._assign(name, value) if equals else TRUE

    def _export(self, words: list[str]) -> int:
        for word in words:
            self._variables.export(word)
        return TRUE

    def _load_env(self, words: list[str]) -> int:
        path = f"{self._variables.get('prefix')}/{GRUBENV}"
        while words and words[0].startswith("-"):
            option = words.pop(0)
            if option in ("-f", "--file") and words:
                path = words.pop(0)
            elif option.startswith("--file="):
                path = option.partition("=")[2]
        data = self._content(path)
        if data is None:
            return FALSE
        if len(data) > MAX_SIZE:
            raise self._problem(f"{path} has {len(data)} bytes, at most {MAX_SIZE} are read")
        for name, value in read_block(data):
            if not words or name in words:
                self._assign(name, value)
        return TRUE

    def _search(self, words: list[str]) -> int:
        kind, variable, names = "file", "root", []
        sets = False
        for word in words:
            option = _SEARCH_OPTION.fullmatch(word)
            if word in KINDS:
                kind = KINDS[word]
            elif option:
                sets = sets or word.startswith(("--set", "-s"))
                variable = option["variable"] or variable
            elif word.startswith("-"):
                raise self._problem(f"this search is not understood: {' '.join(words)[:80]!r}")
            else:
                names.append(word)
        if not sets or not names:
            raise self._problem(f"this search is not understood: {' '.join(words)[:80]!r}")
        return self._find(kind, [names[-1], names[0] if len(names) == 2 else variable])

    def _find(self, kind: str, words: list[str]) -> int:
        """Set a variable, `root` if none is given, to the device of the file system that is asked for."""
        if not words:
            raise self._problem("this search is not understood")
        return self._assign(words[1] if len(words) > 1 else "root", self._files.search(kind, words[0]))

    def _source(self, words: list[str]) -> int:
        self._file_commands(self._one(words), self._depth - 1)
        return self._variables.status

    def _configfile(self, words: list[str]) -> int:
        path = self._one(words)
        outer = self._variables, self._menu
        self._variables, self._menu = self._variables.inherited(), []
        self.configuration(path, self._depth - 1)
        self._variables, self._menu = outer
        return TRUE

    def _linux(self, words: list[str]) -> int:
        path = self._one(words[:1])
        line = " ".join([f"BOOT_IMAGE={_quoted(path)}", *map(_quoted, words[1:])])
        try:
            line.encode()
        except UnicodeEncodeError:
            raise self._problem("a command line that is no UTF-8 is not followed") from None
        self._boot = GrubBoot(path, self._read(path), b"", line)
        return TRUE

    def _initrd(self, words: list[str]) -> int:
        if self._boot is None:
            raise self._problem("an initrd comes before the kernel")
        parts = [self._read(path) for path in words]
        if sum(map(len, parts)) > MAX_INITRD:
            raise self._problem(f"its initrds have more than {MAX_INITRD} bytes")
        initrd = b"".join([*(part + bytes(-len(part) % 4) for part in parts[:-1]), *parts[-1:]])
        self._boot = replace(self._boot, initrd=initrd)
        return TRUE

    def _start(self, _: list[str]) -> int:
        if self._boot is None:
            raise self._problem("no kernel is there to boot")
        raise _Booted(self._boot)

    def _fwsetup(self, words: list[str]) -> int:
        if words != ["--is-supported"]:
            raise self._problem("the command 'fwsetup' is not followed")
        return TRUE  # edk2's boot manager always says so

    def _return(self, words: list[str]) -> int:
        if not self._scopes:
            raise self._problem("there is nothing to return from")
        if words and words[0].isdigit():
            self._variables.status = int(words[0][:9])
        raise _Return

    def _one(self, words: list[str]) -> str:
        if len(words) != 1:
            raise self._problem("a command is not given one file")
        return words[0]

    def _run_menu(self) -> None:
        """Start the entry that a menu starts when nobody touches a key."""
        if not self._variables.get("timeout").strip().isdigit():
            raise bad("its menu has no time-out, and waits for a person")
        default = self._variables.get("default")
        number = number_of(self._menu, default)
        entry = self._menu[number if 0 <= number < len(self._menu) else 0]
        title = f"the menu entry {entry.title[:80]!r}"
        if entry.restricted and self._variables.get("superusers"):
            raise bad(f"{title} asks for a password")
        if entry.submenu:
            self._variables, self._menu = self._variables.inherited(), []
            self._assign("timeout", "0")
        chosen, own = self._variables.get("chosen"), entry.id.replace(">", ">>")
        self._variables.set("chosen", f"{chosen}>{own}" if chosen else own, export=True)
        self._assign("default", rest_of(default))
        self._scoped(entry.script, entry.arguments)
        if self._boot is not None:
            raise _Booted(self._boot)
        if entry.submenu and self._menu:
            self._depth -= 1
            self._run_menu()
        raise bad(f"{title} starts no kernel")

    def _problem(self, problem: str) -> MalformedError:
        return bad(f"{self._place}: {problem}")


def _quoted(word: str) -> str:
    """An argument of the kernel, as GRUB writes it into the command line."""
    escaped = re.sub(r"([\\'\"])", r"\\\1", word)
    return f'"{escaped}"' if " " in word else escaped
