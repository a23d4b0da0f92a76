"""tdx test, on a suite that starts nothing."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tdxstack.cli import tdx
from tdxstack.cli import test as test_module
from tdxstack.errors import UnavailableError
from tdxstack.testing import suite

EMULATED = ("--platform", "emulated")


@pytest.fixture(autouse=True)
def cases(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "test_cases_of_command.py").write_text(
        'def test_good():\n    """Is good."""\ndef test_bad(): assert not "[red]"\n'
    )
    monkeypatch.setattr(suite, "ACCEPTANCE", tmp_path)
    monkeypatch.delitem(sys.modules, "test_cases_of_command", raising=False)  # an earlier test's
    monkeypatch.setattr(test_module, "prepare_host", lambda *args, **options: None)


def run(*words: str) -> Result:
    return CliRunner().invoke(tdx, ["test", *EMULATED, *words], standalone_mode=False)


def test_a_suite_that_passes() -> None:
    done = run("good")
    assert done.return_value == 0
    assert "cases-of-command.good  ok" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 ok  emulated: these TDs are not protected"
    assert "cases-of-command.good ... ok (" in done.stderr


def test_a_failed_case() -> None:
    done = run("--json")
    assert done.return_value == 1
    document = json.loads(done.stdout)
    assert document["passed"] is False
    assert document["emulated"] is True
    assert document["counts"] == {"ok": 1, "fail": 1}
    good, bad = document["cases"]
    assert (good["status"], good["about"]) == ("ok", "Is good.")
    assert (bad["status"], bad["detail"]) == ("fail", "AssertionError: assert not '[red]'")
    assert "assert not '[red]'" in done.stderr


def test_a_list_runs_nothing() -> None:
    done = run("--list")
    assert done.return_value == 0
    assert "cases-of-command.bad" in done.stdout
    assert "..." not in done.stderr
    document = json.loads(run("--list", "--json").stdout)
    assert document["cases"][0] == {
        "id": "cases-of-command.good", "about": "Is good.", "markers": [], "detail": "",
    }  # fmt: skip


def test_without_pytest_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    error = run("--list").exception
    assert isinstance(error, UnavailableError)
    assert "pip install 'tdxstack[test]'" in error.hint
