"""Install a TDX module: into the EFI system partition for the next boot, or into the running system.

Sources: the BIOS's SEAM loader reads EFI/TDX/TDX-SEAM.so and TDX-SEAM.so.sigstruct (NVIDIA's TDX deployment
guide 7.1 and many set-up scripts); a boot loader that runs TdxModuleLoader.efi reads TDX-BLOB beside it
(intel/tdx-module-loader); running systems: Linux Documentation/arch/x86/tdx.rst, "TDX module Runtime Update",
and Documentation/ABI/testing/sysfs-class-firmware.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tdxstack.abi.tdx_blob import VERSION_1, VERSION_2, TdxBlob
from tdxstack.errors import MalformedError, RejectedError, UnavailableError
from tdxstack.files import lock, make_private, write_atomically
from tdxstack.host.module import ModuleFile
from tdxstack.host_access import AbsentError, Host

FOLDER: Final = "EFI/TDX"
MODULE_NAME: Final = "TDX-SEAM.so"
LOADER_NAME: Final = "tdxmoduleloader.efi"
BLOB_NAME: Final = "TDX-BLOB"
MOUNT_POINTS: Final = ("/boot/efi", "/efi", "/boot")

IDLE: Final = "idle"
UPDATE_POLLS: Final = 300
POLL_SECONDS: Final = 0.1

_JOURNAL: Final = "staged.json"


@dataclass(frozen=True, slots=True)
class Target:
    """A file that staging writes, and what is there now."""

    path: Path
    data: bytes
    before: bytes | None

    @property
    def action(self) -> str:
        """`create`, `replace` or `keep`."""
        if self.before is None:
            return "create"
        return "keep" if self.before == self.data else "replace"


def find_esp(host: Host) -> Path:
    """Where the EFI system partition is mounted. Raises `UnavailableError`."""
    hint = "mount the EFI system partition, or name where it is with --esp"
    try:
        mounts = host.read("/proc/self/mounts").decode("utf-8", "replace")
    except AbsentError:
        raise UnavailableError("/proc/self/mounts does not exist", hint=hint) from None
    rows = [line.split() for line in mounts.splitlines()]
    mounted = {row[1] for row in rows if len(row) > 2 and row[2] == "vfat"}
    found = next((place for place in MOUNT_POINTS if place in mounted), None)
    if found is None:
        raise UnavailableError(f"no FAT file system is mounted at {', '.join(MOUNT_POINTS)}", hint=hint)
    return Path(found)


def boot_targets(module: ModuleFile, esp: Path) -> tuple[Target, ...]:
    """The files that make the next boot load `module`.

    A blob beside TdxModuleLoader.efi where the partition has that, else module and sigstruct where the BIOS's
    loader looks. Raises `UnavailableError` where `esp` is no EFI system partition.
    """
    if not (esp / "EFI").is_dir():
        raise UnavailableError(f"{esp} is no EFI system partition: it has no EFI", hint="name it with --esp")
    sigstruct = module.sigstruct.to_bytes()
    loaders = [path for path in sorted(esp.glob("EFI/*/*")) if path.name.lower() == LOADER_NAME]
    if loaders:
        blob = TdxBlob.join(VERSION_1, sigstruct, module.module).to_bytes()
        return tuple(_target(loader.with_name(BLOB_NAME), blob) for loader in loaders)
    folder = esp / FOLDER
    return (
        _target(folder / MODULE_NAME, module.module),
        _target(folder / f"{MODULE_NAME}.sigstruct", sigstruct),
    )


def _target(path: Path, data: bytes) -> Target:
    return Target(path, data, _content(path))


def stage(targets: Sequence[Target], state: Path) -> list[Path]:
    """Write the files of a plan, keeping what they replace below `state`; return what was written.

    Raises `RejectedError` where a file is no longer what the plan saw. After an interruption, staging again
    or undoing both work.
    """
    written = []
    with _journal(state) as journal:
        for target in targets:
            if _content(target.path) != target.before:
                raise RejectedError(
                    f"{target.path} has changed since the plan was made", hint="make the plan again"
                )
            if target.action == "keep":
                continue
            journal.record(target)
            target.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target.path, target.data, mode=None)
            written.append(target.path)
    return written


def unstage(state: Path) -> list[Path]:
    """Put back what staging has replaced; return the files that changed.

    Raises `RejectedError`, and changes nothing, where a file is neither as staged nor as it was before, and
    `UnavailableError` where nothing is staged.
    """
    if _content(state / _JOURNAL) is None:
        raise UnavailableError("no TDX module is staged", hint="nothing was staged by tdx, or it was undone")
    with _journal(state) as journal:
        for path, entry in journal.entries.items():
            now = _digest(_content(Path(path)))
            if now not in (entry["after"], entry["before"]):
                raise RejectedError(
                    f"{path} was changed after it was staged", hint=f"its old content is in {state}; compare"
                )
        changed = []
        for path, entry in reversed(list(journal.entries.items())):
            if _digest(_content(Path(path))) == entry["after"] != entry["before"]:
                _restore(Path(path), journal.kept(path))
                changed.append(Path(path))
        journal.clear()
    return changed


def update_running(
    image: bytes, interface: Path, *, sleep: Callable[[float], None], polls: int = UPDATE_POLLS
) -> None:
    """Replace the running TDX module with a blob of version 2.0; TDs pause meanwhile and go on.

    `interface` is the kernel's firmware upload directory. Raises `UnavailableError` where the kernel refuses
    to begin and `RejectedError` where the update fails or does not end.
    """
    try:
        if _text(interface / "status") != IDLE:
            raise UnavailableError("another update is under way", hint=f"cat {interface}/status")
        (interface / "loading").write_text("1")
        (interface / "data").write_bytes(image)
        (interface / "loading").write_text("0")
        for _ in range(polls):
            if _text(interface / "status") == IDLE:
                break
            sleep(POLL_SECONDS)
        else:
            raise RejectedError("the update of the TDX module did not end", hint=f"cat {interface}/status")
        problem = _text(interface / "error")
    except OSError as error:
        reason = error.strerror or str(error)
        raise UnavailableError(
            f"{interface}: {reason}", hint="run as root on a kernel that offers it"
        ) from None
    if problem:
        hint = "journalctl -k -g 'seamldr|virt/tdx'; then tdx explain the status"
        raise RejectedError(f"the kernel refused the TDX module: {problem[:80]}", hint=hint)


def update_image(module: ModuleFile) -> bytes:
    """What the kernel's update interface takes: a blob of version 2.0."""
    return TdxBlob.join(VERSION_2, module.sigstruct.to_bytes(), module.module).to_bytes()


class _Journal:
    """What has been staged and what was there before, kept by path. Written before each change."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / _JOURNAL
        self.entries: dict[str, dict[str, str]] = {}
        with contextlib.suppress(FileNotFoundError):
            self.entries = _parse(self._file.read_bytes(), self._file)

    def record(self, target: Target) -> None:
        """Keep what is at the target now, unless it was staged: then what was there at first stays kept."""
        path, before = str(target.path), _digest(target.before)
        entry = self.entries.get(path)
        if entry is None or before != entry["after"]:
            if target.before is not None:
                write_atomically(self._folder / before, target.before, mode=0o600)
            entry = {"before": before, "after": ""}
        self.entries[path] = {**entry, "after": _digest(target.data)}
        self._write()

    def kept(self, path: str) -> bytes | None:
        """What was at `path` before; None if it did not exist."""
        before = self.entries[path]["before"]
        return (self._folder / before).read_bytes() if before else None

    def clear(self) -> None:
        """Forget all, and delete what was kept."""
        kept = {entry["before"] for entry in self.entries.values() if entry["before"]}
        self.entries = {}
        self._file.unlink(missing_ok=True)
        for name in kept:
            (self._folder / name).unlink(missing_ok=True)

    def _write(self) -> None:
        document = {"version": 1, "files": self.entries}
        write_atomically(self._file, json.dumps(document, indent=1).encode(), mode=0o600)


def _parse(data: bytes, path: Path) -> dict[str, dict[str, str]]:
    try:
        document = json.loads(data)
        rows = {
            str(name): {"before": str(row["before"]), "after": str(row["after"])}
            for name, row in document["files"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise MalformedError(f"{path} is damaged", hint="look at it, then delete it") from None
    digests = [row["before"] for row in rows.values()]
    if any(digest and (len(digest) != 96 or not digest.isalnum()) for digest in digests):
        raise MalformedError(f"{path} is damaged", hint="look at it, then delete it")
    return rows


@contextlib.contextmanager
def _journal(state: Path) -> Iterator[_Journal]:
    try:
        make_private(state)
        with lock(state / "lock", wait=False):
            yield _Journal(state)
    except PermissionError as error:
        raise UnavailableError(
            f"{error.filename}: {error.strerror}", hint="run as root: sudo tdx …"
        ) from None


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ENOTDIR:
            return None
        raise UnavailableError(f"{path}: {error.strerror}", hint="run as root: sudo tdx …") from None


def _digest(data: bytes | None) -> str:
    return "" if data is None else hashlib.sha384(data).hexdigest()


def _restore(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
    else:
        write_atomically(path, content, mode=None)


def _text(path: Path) -> str:
    return path.read_text("ascii", "replace").strip()
