from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tdxstack.cli import host_module
from tdxstack.cli.host_module import module
from tdxstack.errors import RejectedError, TdxError, UnavailableError, UsageError
from tests.module_files import GRANITE_RAPIDS, MODULE, signed
from tests.scripted_host import ScriptedHost
from tests.unit.host.test_module_plan import good_host

HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
"""As under `tdx`: a command keeps the help option that it was first asked for with."""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedHost:
    scripted = good_host()
    monkeypatch.setattr(host_module, "RealHost", lambda: scripted)
    monkeypatch.setattr(host_module, "STATE", tmp_path / "state")
    return scripted


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tdx_module_1.5.99.bin"
    path.write_bytes(MODULE)
    path.with_suffix(".sigstruct").write_bytes(signed().to_bytes())
    return path


@pytest.fixture
def esp(tmp_path: Path) -> Path:
    (tmp_path / "esp/EFI").mkdir(parents=True)
    return tmp_path / "esp"


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    row = {
        "version": "1.5.99",
        "min_module_version_for_td_preserving": "1.5.05",
        "min_seamldr_versions": ["1.5.00"],
    }
    path = tmp_path / "mapping_file.json"
    path.write_text(json.dumps({"tdx_module_releases": [row]}))
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(module, [str(word) for word in words], **HELP)


def refused(result: Result) -> TdxError:
    assert isinstance(result.exception, TdxError)
    return result.exception


def test_a_file_is_shown(file: Path) -> None:
    result = run("show", file)
    assert result.exit_code == 0
    assert "1.5.99 (by the file's name only)" in result.stdout
    assert "Sapphire Rapids" in result.stdout
    document = json.loads(run("show", file, "--json").stdout)
    assert document["svn"] == {"minor": 11, "major": 1}
    assert [check["id"] for check in document["checks"]][:2] == ["module.hash", "module.signature"]


def test_a_damaged_file_is_exit_code_1(file: Path) -> None:
    file.write_bytes(MODULE[::-1])
    assert run("show", file).exit_code == 1


def test_what_runs_is_shown(host: ScriptedHost) -> None:
    assert "version         1.5.16 (/sys/devices/faux/tdx_host/version)" in run("show").stdout
    document = json.loads(run("show", "--json").stdout)
    assert (document["version"], document["remaining_updates"], document["unknown"]) == ("1.5.16", 3, {})
    host.files.clear()
    unknown = run("show", "--json")
    assert unknown.exit_code == 1
    assert json.loads(unknown.stdout)["version"] is None


@pytest.mark.parametrize(("with_mapping", "method"), [(True, "runtime"), (False, "boot")])
def test_a_plan_says_how(
    host: ScriptedHost, file: Path, mapping: Path, with_mapping: bool, method: str
) -> None:
    words = ["--mapping", mapping] if with_mapping else []
    result = run("plan", file, *words)
    assert result.exit_code == 0
    assert "install   " in result.stdout
    assert json.loads(run("plan", file, *words, "--json").stdout)["method"] == method


def test_a_module_for_other_cpus_is_refused(host: ScriptedHost, file: Path, esp: Path) -> None:
    file.with_suffix(".sigstruct").write_bytes(signed(cpu=GRANITE_RAPIDS).to_bytes())
    assert run("plan", file).exit_code == 1
    error = refused(run("stage", file, "--esp", esp))
    assert isinstance(error, RejectedError) and "cpu.supported" in error.message
    assert list((esp / "EFI").iterdir()) == []


def test_a_module_is_staged_and_taken_back(host: ScriptedHost, file: Path, esp: Path) -> None:
    dry = run("stage", file, "--esp", esp, "--dry-run")
    assert dry.exit_code == 0
    assert f"would create {esp}/EFI/TDX/TDX-SEAM.so ({len(MODULE)} bytes)" in dry.stdout
    assert list((esp / "EFI").iterdir()) == []
    assert run("stage", file, "--esp", esp).exit_code == 0
    assert (esp / "EFI/TDX/TDX-SEAM.so").read_bytes() == MODULE
    assert "nothing to do" in run("stage", file, "--esp", esp).stdout
    assert run("stage", "--undo").exit_code == 0
    assert not (esp / "EFI/TDX/TDX-SEAM.so").exists()


def test_the_partition_has_to_be_found(host: ScriptedHost, file: Path) -> None:
    host.files["/proc/self/mounts"] = b""
    assert "no FAT file system" in refused(run("stage", file)).message


def test_the_running_module_is_replaced_through_the_kernel(
    host: ScriptedHost, file: Path, mapping: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[bytes] = []

    def update(image: bytes, interface: Path, *, sleep: Callable[[float], None]) -> None:
        given.append(image)

    monkeypatch.setattr(host_module, "update_running", update)
    words = ("stage", file, "--mapping", mapping, "--runtime")
    assert "would write" in run(*words, "--dry-run").stdout
    assert given == []
    assert run(*words).exit_code == 0
    assert given[0][:2] == b"\0\2" and MODULE in given[0]
    error = refused(run("stage", file, "--runtime"))
    assert isinstance(error, UnavailableError) and "runtime.mapping" in error.message


@pytest.mark.parametrize("words", [["stage"], ["stage", "--undo", "--runtime"], ["stage", "--undo", "x.bin"]])
def test_calls_that_make_no_sense(host: ScriptedHost, words: list[str]) -> None:
    assert isinstance(refused(run(*words)), UsageError)


def test_a_file_without_sigstruct(host: ScriptedHost, file: Path) -> None:
    file.with_suffix(".sigstruct").unlink()
    assert isinstance(refused(run("show", file)), UsageError)
    other = file.with_name("other")
    other.write_bytes(replace(signed(), minor_svn=12).to_bytes())
    assert run("show", file, "--sigstruct", other).exit_code == 1
