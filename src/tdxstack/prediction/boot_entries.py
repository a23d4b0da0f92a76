"""Entries of the Boot Loader Specification, as systemd-boot reads and orders them.

Sources: systemd 257 and 262, src/boot/boot.c, efi-string.c and src/fundamental; UAPI group specification 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cmp_to_key

from tdxstack.errors import MalformedError
from tdxstack.measurement.pe import Image
from tdxstack.measurement.unified_kernel import profile_texts
from tdxstack.prediction.fat import Fat

TYPE_1, TYPE_2 = "loader/entries", "EFI/Linux"
"""Directories: text files that name a kernel, and unified kernel images."""
LINUX, EFI, UKI = "linux", "efi", "uki"
"""What an entry of type 1 starts, by the key that names it; only with the first do initrds go along."""
ARCHITECTURE = "x64"
MAX_TRIES = 0x7FFFFFFF
MAX_ENTRIES, MAX_FILE, MAX_KEY = 1000, 1 << 16, 256
"""Entries of a kind on a file system; bytes of a file; letters of what entries are ordered by."""
CASE_KEPT_UNTIL = 257
"""Up to this version, the letters of an entry's name keep their case where it counts boot attempts."""

_TRIES = re.compile(
    r"(?P<stem>.*)\+(?P<left>\d{1,10})(?:-(?P<done>\d{1,10}))?(?P<suffix>\.(?:conf|efi))", re.I
)
_SEGMENT = re.compile(r"[0-9]+|[A-Za-z]+")
_IGNORED_LETTERS = re.compile(r"[^0-9A-Za-z~.^-]+")

HINT = "see what `bootctl list` says in the guest"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. Paths have "/" between names. `tries_left` and `tries_done` are -1 where none count."""

    name: str
    kind: str
    volume: Fat
    program: str
    options: str = ""
    initrds: tuple[str, ...] = ()
    device_tree: bool = False
    sort_key: str = ""
    machine_id: str = ""
    version: str = ""
    profile: int = 0
    name_without_profile: str = ""
    tries_left: int = -1
    tries_done: int = -1


def read_entries(volume: Fat, version: int, itself: str) -> list[Entry]:
    """The entries on a file system, in the order in which a loader of that version finds them.

    `itself` is the loader's own path, for which there is no entry. Raises `MalformedError`.
    """
    found: list[Entry] = []
    for name in _listed(volume, TYPE_2, ".efi"):
        found += _unified(volume, name, version)
    for name in _listed(volume, TYPE_1, ".conf"):
        entry = _described(volume, name, version, itself)
        if entry is not None:
            found.append(entry)
    return found


def in_order(entries: Sequence[Entry]) -> list[Entry]:
    """The entries as the menu shows them: the first is started where nothing else is asked for."""
    newest_first = cmp_to_key(_newer)

    def place(entry: Entry) -> tuple[object, ...]:
        return (
            entry.tries_left == 0,
            not entry.sort_key,
            entry.sort_key,
            entry.machine_id if entry.sort_key else "",
            newest_first(entry.version if entry.sort_key else ""),
            newest_first(entry.name_without_profile or entry.name),
            entry.profile,
            -entry.tries_left,
            entry.tries_done,
        )

    return sorted(entries, key=place)


def without_tries(path: str) -> str:
    """The path of a program without the counters of boot attempts in its name."""
    found = _TRIES.fullmatch(path)
    return found["stem"] + found["suffix"] if found else path


def pairs(text: str, separators: str) -> Iterator[tuple[str, str]]:
    """Key and value of each line; comments and lines without a value are left out."""
    for line in re.split("[\n\r]", text.partition("\0")[0]):
        stripped = line.strip(" \t")
        found = re.fullmatch(f"([^{separators}]*)[{separators}]+(.*)", stripped)
        if found is None or stripped.startswith("#"):
            continue
        key, value = found.groups()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        yield key, value


def decode(data: bytes, path: str) -> str:
    """A text file. Raises `MalformedError` where it is not UTF-8, or too long to be one of these."""
    if len(data) > MAX_FILE:
        raise MalformedError(
            f"systemd-boot: {path} has {len(data)} bytes, at most {MAX_FILE} are read", hint="shorten it"
        )
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise MalformedError(f"systemd-boot: {path} is no UTF-8", hint="write it in UTF-8") from None


def _listed(volume: Fat, directory: str, suffix: str) -> Iterator[str]:
    names = [name for name in volume.names(directory) if name.lower().endswith(suffix)]
    if len(names) > MAX_ENTRIES:
        raise MalformedError(f"systemd-boot: {directory} has more than {MAX_ENTRIES} entries", hint=HINT)
    for name in names:
        if not name.lower().startswith((".", "auto-")):
            yield name


def _described(volume: Fat, file: str, version: int, itself: str) -> Entry | None:
    """An entry of type 1; None for one that does not count."""
    path = f"{TYPE_1}/{file}"
    values: dict[str, str] = {}
    options: list[str] = []
    initrds: list[str] = []
    kind = ""
    for key, value in pairs(decode(volume.read(path) or b"", path), " \t"):
        if key == "architecture" and value.lower() != ARCHITECTURE:
            return None
        if key in (LINUX, EFI) or (key == UKI and version > CASE_KEPT_UNTIL):
            if version > CASE_KEPT_UNTIL and kind not in ("", key):
                return None
            kind, values["program"] = key, value
            if kind == EFI and plain_path(value).lower() == plain_path(itself).lower():
                return None
        elif key == "uki-url" and version > CASE_KEPT_UNTIL:
            raise MalformedError(f"systemd-boot: {path} starts a program from the network", hint=HINT)
        elif key == "options":
            options.append(value)
        elif key == "initrd":
            initrds.append(value)
        elif key in ("extra", "profile") and version > CASE_KEPT_UNTIL:
            raise MalformedError(f"systemd-boot: {path} uses {key!r}, which is not followed", hint=HINT)
        else:
            values[key] = value
    _check_keys(path, values.get("sort-key", ""), values.get("machine-id", ""), values.get("version", ""))
    program = plain_path(values.get("program", ""))
    if not kind or volume.read(program) is None:
        return None
    name, left, done = _tries(file, version)
    return Entry(
        name=name,
        kind=kind,
        volume=volume,
        program=program,
        options=" ".join(options),
        initrds=tuple(initrds) if kind == LINUX else (),
        device_tree="devicetree" in values,
        sort_key=values.get("sort-key", ""),
        machine_id=values.get("machine-id", ""),
        version=values.get("version", ""),
        tries_left=left,
        tries_done=done,
    )


def _unified(volume: Fat, file: str, version: int) -> Iterator[Entry]:
    """The entries of a unified kernel image, one for each of its profiles; none for another program."""
    path = f"{TYPE_2}/{file}"
    try:
        profiles = profile_texts(Image.parse(volume.read(path) or b""))
    except MalformedError:
        return
    name, left, done = _tries(file, version)
    for number, (release, profile) in enumerate(profiles):
        known = dict(pairs(release.decode("utf-8", "ignore"), "="))
        if not any(key in known for key in ("PRETTY_NAME", "IMAGE_ID", "NAME", "ID")):
            continue
        sort_key = known.get("IMAGE_ID") or known.get("ID") or ""
        own = dict(pairs(profile.decode("utf-8", "ignore"), "=")).get("ID", str(number))
        versions = (known.get(key) for key in ("IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID"))
        newest = next((text for text in versions if text), "")
        _check_keys(path, sort_key, newest)
        yield Entry(
            name=f"{name}@{own}" if number else name,
            kind=UKI,
            volume=volume,
            program=path,
            sort_key=sort_key,
            version=newest,
            profile=number,
            name_without_profile=name if number else "",
            tries_left=left,
            tries_done=done,
        )


def _check_keys(path: str, *keys: str) -> None:
    if any(len(key) > MAX_KEY for key in keys):
        raise MalformedError(
            f"systemd-boot: {path} has a key of more than {MAX_KEY} letters to be ordered by",
            hint="shorten it",
        )


def _tries(file: str, version: int) -> tuple[str, int, int]:
    """The name of an entry without its counters, the attempts left, and those done."""
    found = _TRIES.fullmatch(file)
    if found is None or max(int(found["left"]), int(found["done"] or 0)) > MAX_TRIES:
        return file.lower(), -1, -1
    name = found["stem"] + found["suffix"]
    kept = name if version <= CASE_KEPT_UNTIL else name.lower()
    return kept, int(found["left"]), int(found["done"] or 0)


def plain_path(path: str) -> str:
    """A path with single "/" between names, and none before the first."""
    return re.sub(r"[\\/]+", "/", path).strip("/")


def compare_versions(one: str, other: str) -> int:
    """Less than, equal to or greater than 0, as a version is older, as old or newer than another."""
    a, b = _IGNORED_LETTERS.sub(" ", one), _IGNORED_LETTERS.sub(" ", other)
    while True:
        a, b = a.lstrip(" "), b.lstrip(" ")
        for sign in "~-^.":
            if sign == "-" and not (a and b):
                # A version with more segments is newer, unless they are those of a pre-release.
                return bool(a) - bool(b)
            if a.startswith(sign) != b.startswith(sign):
                return -1 if a.startswith(sign) else 1
            if a.startswith(sign):
                a, b = a[1:], b[1:]
        digits = a[:1].isdigit() or b[:1].isdigit()
        first, second = _segment(a), _segment(b)
        if digits:
            if first.isdigit() != second.isdigit():
                return 1 if first.isdigit() else -1
            mine, theirs = first.lstrip("0"), second.lstrip("0")
            if mine != theirs:
                return 1 if (len(mine), mine) > (len(theirs), theirs) else -1
        elif first != second:
            return 1 if first > second else -1
        a, b = a[len(first) :], b[len(second) :]


def _newer(one: str, other: str) -> int:
    return compare_versions(other, one)


def _segment(text: str) -> str:
    """The digits or letters that a text begins with."""
    found = _SEGMENT.match(text)
    return found[0] if found else ""
