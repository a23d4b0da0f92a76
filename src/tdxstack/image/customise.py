"""Users, and the scripts of a recipe, run inside the installed tree."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from tdxstack.errors import CommandError, UnavailableError
from tdxstack.image.base_tree import check_namespace, namespace
from tdxstack.image.recipe import ImageRecipe, User
from tdxstack.run import Report, silent, stream

SCRIPT = Path(__file__).with_name("customise.sh")

_SECONDS = 30 * 60.0
_USERS = "00-users"
_FAILED = re.compile(r"tdxstack: script (\S+) has failed")
_RUNNING = re.compile(r"Running (\S+)")


def is_needed(recipe: ImageRecipe) -> bool:
    """Whether a recipe asks for anything that only a program in the tree can do."""
    return bool(recipe.users or recipe.scripts)


def customise(
    recipe: ImageRecipe, root: Path, work: Path, *, epoch: int, log: Path, uid: int, report: Report = silent
) -> Path:
    """Make the users of `recipe` in the tree `root` (a tar archive), run its scripts; return the new archive.

    Scripts run as root of the tree, in namespaces, without network; what they say goes to `log`. `work` is a
    new directory. Raises `CommandError` with the name of a script that fails, and its last words.
    """
    check_namespace(uid)
    (work / "scripts").mkdir(parents=True)
    (work / "tree").mkdir()
    root.replace(work / "root.tar")
    if recipe.users:
        _write(work / "scripts" / _USERS, users_script(recipe.users).encode())
    for number, script in enumerate(recipe.scripts, 1):
        _write(work / "scripts" / f"{number:02}-{script.name}", script.read_bytes())
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        if match := _RUNNING.fullmatch(line):
            report(f"guest image: {match[1]}", None)

    log.unlink(missing_ok=True)
    command = [*namespace(uid), "--net", "sh", str(SCRIPT), str(work), str(epoch)]
    try:
        stream(command, log=log, on_line=on_line, timeout=_SECONDS)
    except CommandError as error:
        failed = next((match[1] for line in lines if (match := _FAILED.fullmatch(line))), None)
        if failed is None:
            raise
        said = next((line for line in reversed(lines) if not _FAILED.fullmatch(line)), "")
        raise CommandError(f"script {failed} has failed: {said[:200]}", hint=f"see {log}") from error
    made = work / "customised.tar"
    if not made.is_file():
        raise UnavailableError("customising the guest ended without a result", hint=f"see {log}")
    return made


def users_script(users: Sequence[User]) -> str:
    """What makes the accounts; their password is none that anything could be."""
    lines = ["#!/bin/sh", "set -eu"]
    for user in users:
        name, home = shlex.quote(user.name), shlex.quote(f"/home/{user.name}")
        lines += [f"getent group {group} >/dev/null || groupadd {group}" for group in user.groups]
        groups = f" --groups {','.join(user.groups)}" if user.groups else ""
        # not `!`: sshd takes that for an account that is closed
        lines.append(f"useradd --create-home --password '*' --shell {shlex.quote(user.shell)}{groups} {name}")
        if user.ssh_keys:
            lines += [
                f"install -d -m 700 -o {name} -g {name} {home}/.ssh",
                f"printf '%s\\n' {' '.join(map(shlex.quote, user.ssh_keys))} >{home}/.ssh/authorized_keys",
                f"chown {name}:{name} {home}/.ssh/authorized_keys",
                f"chmod 600 {home}/.ssh/authorized_keys",
            ]
    return "\n".join([*lines, ""])


def _write(path: Path, program: bytes) -> None:
    # what names no interpreter is for the shell
    path.write_bytes(program if program.startswith((b"#!", b"\x7fELF")) else b"#!/bin/sh\n" + program)
    path.chmod(0o755)
