"""The installed tree that images are made of: configured in namespaces, kept as a tar archive."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from tdxstack.errors import CommandError, MalformedError, UnavailableError
from tdxstack.run import Report, run, silent, stream
from tdxstack.toolbox.apt import Deb

SCRIPT = Path(__file__).with_name("bootstrap.sh")

_SECONDS = 30 * 60.0
_PROBE_SECONDS = 30.0
_MEMBER = re.compile(rb"!<arch>\n.{16}([0-9]{1,12}) *", re.DOTALL)


def namespace(uid: int) -> list[str]:
    """The command that runs another as root of mount and PID namespaces, for a caller with `uid`.

    Users other than root get a user namespace with the range of user ids that /etc/subuid gives them, because
    the files of a system belong to more than one. All processes end with the command.
    """
    user = [] if uid == 0 else ["--user", "--map-root-user", "--map-auto"]
    return ["setpriv", "--pdeathsig", "KILL", "unshare", *user, "--mount", "--pid", "--fork", "--kill-child"]


def check_namespace(uid: int) -> None:
    """Raise `UnavailableError`, saying what is missing, where `namespace` cannot work."""
    probe = [*namespace(uid), "mount", "-t", "tmpfs", "tmpfs", "/"]
    done = run(probe, timeout=_PROBE_SECONDS, check=False)
    if done.returncode == 0:
        return
    reason = done.stderr.decode(errors="replace").strip()
    if uid == 0:
        hint = "the guest image needs a root that may mount file systems (CAP_SYS_ADMIN)"
    elif shutil.which("newuidmap") is None:
        hint = "install the package uidmap, or use sudo"
    elif "subuid" in reason or "subgid" in reason or "map" in reason:
        hint = "give your account a range of ids in /etc/subuid and /etc/subgid (usermod(8)), or use sudo"
    else:
        hint = "this machine does not let users create namespaces; use sudo"
    raise UnavailableError(f"no namespace to install the guest's packages in: {reason}", hint=hint)


def build_time(debs: Sequence[Deb]) -> int:
    """When the newest of `debs` was built, in seconds since 1970: the time of everything in the image.

    It is the modification time of the package's first member (deb(5)). Raises `MalformedError`.
    """
    return max(_built(deb.path) for deb in debs)


def install(
    essential: Sequence[Deb],
    others: Sequence[Deb],
    work: Path,
    *,
    log: Path,
    uid: int,
    report: Report = silent,
) -> Path:
    """Install packages into an empty tree and return the tar archive of it, below the new directory `work`.

    Runs the packages' own scripts, unprivileged in a namespace or as root (`uid` 0), without network. Nothing
    is left mounted, and the tree exists in memory only, so that a build that is killed leaves only `work`.
    What the packages say goes to `log`. Raises `UnavailableError` where namespaces cannot be had and
    `CommandError` where a package fails.
    """
    check_namespace(uid)
    (work / "tree").mkdir(parents=True)
    for name, debs in (("essential", essential), ("others", others)):
        (work / name).mkdir()
        for deb in debs:
            _link(deb.path, work / name / f"{deb.name}.deb")
    steps = _Steps(2 * (len(essential) + len(others)), report)
    log.unlink(missing_ok=True)
    command = [*namespace(uid), "sh", str(SCRIPT), str(work), str(build_time([*essential, *others]))]
    stream(command, log=log, on_line=steps.on_line, timeout=_SECONDS)
    archive = work / "base.tar"
    if not archive.is_file():
        raise CommandError(
            "the installation of the guest's packages ended without a result", hint=f"see {log}"
        )
    return archive


class _Steps:
    """Turns dpkg's output into progress."""

    def __init__(self, total: int, report: Report) -> None:
        self._total = total
        self._done = 0
        self._report = report

    def on_line(self, line: str) -> None:
        if line.startswith(("Unpacking ", "Setting up ")):
            self._done += 1
            self._report("installing the guest's packages", min(1.0, self._done / self._total))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _built(path: Path) -> int:
    with path.open("rb") as file:
        match = _MEMBER.match(file.read(64))
    if match is None:
        raise MalformedError(f"{path.name} is no Debian package", hint="delete it; it will be fetched again")
    return int(match[1])
