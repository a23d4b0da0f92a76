from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tdxstack.errors import CommandError, UnavailableError
from tdxstack.image import customise
from tdxstack.image.recipe import ImageRecipe, User
from tdxstack.run import Argv

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHNvbWUga2V5IG9mIHRoaXJ0eS10d28gYnl0ZXM= o'me"


def test_only_users_and_scripts_need_it(tmp_path: Path) -> None:
    assert not customise.is_needed(ImageRecipe())
    assert customise.is_needed(ImageRecipe.model_validate({"users": [{"name": "me"}]}))
    (tmp_path / "s").write_text("")
    assert customise.is_needed(ImageRecipe.model_validate({"scripts": [str(tmp_path / "s")]}))


def test_users_have_keys_and_no_password() -> None:
    user = User.model_validate({"name": "me", "groups": ["adm"], "ssh_keys": [KEY]})
    lines = customise.users_script([user]).splitlines()
    assert lines[:2] == ["#!/bin/sh", "set -eu"]
    assert "useradd --create-home --password '*' --shell /bin/bash --groups adm me" in lines
    written = next(line for line in lines if line.startswith("printf"))
    assert shlex.split(written) == ["printf", "%s\\n", KEY, ">/home/me/.ssh/authorized_keys"]


class Programs:
    """Stands in for the namespaces."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, lines: list[str], *, fails: bool = False) -> None:
        self.lines, self.fails = lines, fails
        self.command: list[str] = []
        self.scripts: dict[str, bytes] = {}
        monkeypatch.setattr(customise, "check_namespace", lambda uid: None)
        monkeypatch.setattr(customise, "stream", self.stream)

    def stream(self, argv: Argv, *, on_line: Callable[[str], None], **_: object) -> None:
        self.command = [str(word) for word in argv]
        work = Path(self.command[-2])
        self.scripts = {path.name: path.read_bytes() for path in sorted((work / "scripts").iterdir())}
        for line in self.lines:
            on_line(line)
        if self.fails:
            raise CommandError("sh failed")
        if self.lines:
            (work / "customised.tar").write_bytes((work / "root.tar").read_bytes())


def run(tmp_path: Path, said: list[str]) -> Path:
    def report(text: str, fraction: float | None = None) -> None:
        said.append(text)

    (tmp_path / "setup").write_bytes(b"echo x\n")
    (tmp_path / "more.py").write_bytes(b"#!/usr/bin/python3\n")
    (tmp_path / "root.tar").write_bytes(b"tar")
    recipe = ImageRecipe.model_validate(
        {"users": [{"name": "me"}], "scripts": [str(tmp_path / "setup"), str(tmp_path / "more.py")]}
    )
    return customise.customise(
        *(recipe, tmp_path / "root.tar", tmp_path / "work"),
        epoch=5,
        log=tmp_path / "log",
        uid=0,
        report=report,
    )


def test_users_are_made_and_scripts_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs(monkeypatch, ["Running 00-users", "Running 01-setup", "x"])
    said: list[str] = []
    assert run(tmp_path, said).read_bytes() == b"tar"
    assert list(programs.scripts) == ["00-users", "01-setup", "02-more.py"]
    assert programs.scripts["01-setup"] == b"#!/bin/sh\necho x\n"
    assert programs.scripts["02-more.py"] == b"#!/usr/bin/python3\n"
    assert "--net" in programs.command
    assert said == ["guest image: 00-users", "guest image: 01-setup"]


def test_a_script_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["Running 01-setup", "no such thing", "tdxstack: script 01-setup has failed"]
    Programs(monkeypatch, lines, fails=True)
    with pytest.raises(CommandError, match="script 01-setup has failed: no such thing"):
        run(tmp_path, [])


def test_no_result_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Programs(monkeypatch, [])
    with pytest.raises(UnavailableError, match="without a result"):
        run(tmp_path, [])
