"""What systemd-boot starts: its configuration and the entries on a disk, followed as it follows them.

Sources: systemd 257 and 262, src/boot/boot.c, drivers.c and secure-boot.c.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from uuid import UUID

from tdxstack.errors import MalformedError
from tdxstack.firmware.variables import KeyState, SecureBoot
from tdxstack.prediction.boot_entries import HINT, Entry, decode, in_order, pairs, plain_path, read_entries
from tdxstack.prediction.fat import Fat

OLD, NEW = 257, 262
"""The two that are followed. The new one also measures its configuration, and structures of SMBIOS."""
VENDOR = UUID("4a67b082-0a4c-41cf-b6c7-440b29bb8c4f")
"""Of the variables in which a choice is kept."""
CONFIGURATION = "loader/loader.conf"
DRIVERS, KEYS = "EFI/systemd/drivers", "loader/keys/auto"
SAVED = "@saved"
FORCED_MENU = "menu-force"
NO_ENROLLING = ("off", "manual")
BUILT_IN = (
    *("auto-osx", "auto-windows", "auto-efi-shell", "auto-efi-default"),
    *("auto-reboot-to-firmware-setup", "auto-poweroff", "auto-reboot"),
)
"""Names of entries that it makes by itself; it starts none of them unless its configuration names it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The entry that is started, and the configuration as it is on the disk (None without one)."""

    entry: Entry
    configuration: bytes | None

    @property
    def options(self) -> str:
        """The load options that the program gets; empty where it gets none."""
        entry = self.entry
        initrds = [f"initrd={_backslashes(path)}" for path, _ in self._initrds]
        return " ".join([*initrds, *([entry.options] if entry.options else [])])

    @property
    def initrd(self) -> bytes:
        """All initrds as the kernel gets them: each but the last filled up to a multiple of 4 bytes."""
        parts = [content for _, content in self._initrds]
        return b"".join([*(part + bytes(-len(part) % 4) for part in parts[:-1]), *parts[-1:]])

    @property
    def _initrds(self) -> list[tuple[str, bytes]]:
        found = []
        for path in self.entry.initrds:
            content = self.entry.volume.read(plain_path(path))
            if content is None:
                raise _bad(f"{self.entry.name} names the initrd {path}, which is not there")
            if not content:
                raise _bad(f"{self.entry.name} names the initrd {path}, which is empty")
            found.append((path, content))
        return found


def choose(version: int, itself: str, system: Fat, extended: Fat | None, state: KeyState) -> Choice:
    """What a systemd-boot of that version starts from an EFI system partition, and an extended one.

    `itself` is the path that it was started by, `state` the firmware's. Raises `MalformedError` where that
    depends on more than the disk and the firmware, or on what is not followed.
    """
    if version not in (OLD, NEW):
        raise _bad(f"version {version} is not followed, only {OLD} and {NEW}")
    for vendor, name in state.variables:
        if vendor == VENDOR:
            raise _bad(f"the firmware's variable {name} decides on it, which is not followed")
    for name in system.names(DRIVERS):
        if name.lower().endswith("x64.efi"):
            raise _bad(f"it loads the driver {DRIVERS}/{name} first, which is not followed")
    raw = system.read(CONFIGURATION)
    settings = _settings(decode(raw, CONFIGURATION)) if raw is not None else {}
    enrolls = settings.get("secure-boot-enroll", "") not in NO_ENROLLING and system.names(KEYS)
    if enrolls and state.secure_boot is SecureBoot.SETUP:
        raise _bad(f"it enrolls the keys in {KEYS} and starts the machine anew")
    if settings.get("timeout") == FORCED_MENU:
        raise _bad(f"{CONFIGURATION} lets its menu wait for a person")
    entries = read_entries(system, version, itself)
    if extended is not None:
        entries += read_entries(extended, version, "")
    entry = _chosen(in_order(entries), settings, version)
    if entry.profile:
        raise _bad(f"{entry.name} is a profile other than the first, which is not followed")
    if entry.device_tree:
        raise _bad(f"{entry.name} names a device tree, which is not followed")
    return Choice(entry, raw)


def _settings(text: str) -> dict[str, str]:
    """The last value of each key. A name in `default` that starts with "@" counts only if it is @saved."""
    return {
        key: value
        for key, value in pairs(text, " \t")
        if key not in ("default", "preferred") or not value.startswith("@") or value.lower() == SAVED
    }


def _chosen(entries: Sequence[Entry], settings: dict[str, str], version: int) -> Entry:
    """The entry that the configuration names, else the first."""
    keys = ("preferred", "default") if version == NEW else ("default",)
    for key in keys:
        pattern = settings.get(key, "").lower()
        if not pattern or pattern == SAVED:
            continue  # a TD starts with the firmware's variables: nothing has been saved
        if set(pattern) & set("[\\"):
            raise _bad(f"the pattern {pattern!r} in {CONFIGURATION} is not followed")
        for entry in entries:
            if fnmatchcase(entry.name, pattern) and (key == "default" or entry.tries_left):
                return entry
        for name in BUILT_IN:
            if fnmatchcase(name, pattern):
                raise _bad(f"{CONFIGURATION} chooses {name}, which is not followed")
    found = next((entry for entry in entries if not entry.profile), None)
    if found is None:
        raise _bad("it finds no entry that it could start")
    return found


def _backslashes(path: str) -> str:
    """A path as it passes it on."""
    return re.sub(r"[\\/]+", r"\\", path)


def _bad(problem: str) -> MalformedError:
    return MalformedError(f"systemd-boot: {problem}", hint=HINT)
