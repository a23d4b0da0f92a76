"""The packages that must be installed on the host itself: the one list of them.

They are what a private root cannot stand in for: compilers and headers for QEMU, whose result links with the
host's libraries, and the set-user-id helpers of user namespaces. The names are those of Debian 12 or newer
and of Ubuntu 24.04 or newer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from tdxstack.errors import CommandError, UnavailableError
from tdxstack.run import Report, run, silent, stream
from tdxstack.toolbox.apt_errors import explain

PURPOSES: dict[str, tuple[str, ...]] = {
    "environment": ("python3-venv",),
    "emulator": (
        "bison",
        "device-tree-compiler",
        "flex",
        "gcc",
        "libc6-dev",
        "libfdt-dev",
        "libglib2.0-dev",
        "libpixman-1-dev",
        "libslirp-dev",
        "ninja-build",
        "patch",
        "pkg-config",
        "python3-venv",
        "xz-utils",
        "zlib1g-dev",
    ),
    "image": ("mount", "uidmap"),
    "libvirt": ("gcc", "libc6-dev", "libvirt-dev", "pkg-config", "python3-dev"),
    "tests": ("binutils", "cpio", "gcc", "openssh-client", "openssl"),
}
"""What packages are needed for: making `.venv`, building the emulator, building images without privilege,
building libvirt's Python binding, and the repository's own tests, which compare with what these programs
say."""

_LISTS_AGE = timedelta(days=1)
_QUERY_SECONDS = 60.0
_INSTALL_SECONDS = 30 * 60.0
_APT_GET = ("env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8", "apt-get", "--quiet")


def needed(purposes: Iterable[str]) -> list[str]:
    """The packages for some of `PURPOSES`, sorted."""
    return sorted({package for purpose in purposes for package in PURPOSES[purpose]})


def missing(packages: Sequence[str]) -> list[str]:
    """Those of `packages` that are not installed, nor provided by something installed.

    Raises `UnavailableError` on a host without dpkg.
    """
    if not packages:
        return []
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status}\\t${Package}\\t${Provides}\\n"]
    listed = run(query, timeout=_QUERY_SECONDS).stdout.decode(errors="replace")
    present: set[str] = set()
    for line in listed.splitlines():
        status, _, rest = line.partition("\t")
        if status == "installed":
            name, _, provides = rest.partition("\t")
            present.add(name)
            present.update(word.split()[0] for word in provides.split(",") if word.strip())
    return [package for package in packages if package not in present]


def install_commands(packages: Sequence[str]) -> list[list[str]]:
    """What `install` runs, for showing before it is run."""
    return [[*_APT_GET, "update"], [*_APT_GET, "install", "--yes", "--no-install-recommends", *packages]]


def install(packages: Sequence[str], *, log: Path, uid: int, now: datetime, report: Report = silent) -> None:
    """Install packages with the host's apt, as the host is configured; the caller has asked for consent.

    Package lists are updated first where they are older than a day at `now`, or absent. All output goes to
    `log`. Raises `UnavailableError` unless `uid`, the effective user, is root, or where apt fails.
    """
    if not packages:
        return
    update, command = install_commands(packages)
    if uid != 0:
        raise UnavailableError(
            f"only root can install {', '.join(packages)}",
            hint=f"run: sudo apt-get install --no-install-recommends {' '.join(packages)}",
        )
    if _lists_are_old(Path("/var/lib/apt/lists"), now):
        report("updating the host's package lists", None)
        _apt_get(update, log)
    report(f"installing {', '.join(packages)}", None)
    _apt_get(command, log)
    left = missing(packages)
    if left:
        raise UnavailableError(f"{', '.join(left)} are still not installed", hint=f"see {log}")


def _apt_get(command: Sequence[str], log: Path) -> None:
    lines: list[str] = []
    try:
        stream(command, log=log, on_line=lines.append, timeout=_INSTALL_SECONDS)
    except CommandError as error:
        if not any(line.startswith("E: ") for line in lines):
            raise
        if any("Could not get lock" in line for line in lines):
            raise UnavailableError(
                "another program is installing packages on this host",
                hint="wait until it has ended, then try again",
            ) from error
        raise explain(lines, str(log)) from error


def _lists_are_old(lists: Path, now: datetime) -> bool:
    """Whether no package list below `lists` was written within a day before `now`."""
    times = [path.stat().st_mtime for path in lists.glob("*_Packages*")] if lists.is_dir() else []
    return not times or now.timestamp() - lists.stat().st_mtime > _LISTS_AGE.total_seconds()
