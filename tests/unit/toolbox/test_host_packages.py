from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tdxstack.errors import UnavailableError
from tdxstack.toolbox import host_packages

NOW = datetime(2026, 11, 20, tzinfo=UTC)

DPKG_QUERY = r"""#!/bin/sh
printf 'installed\tgcc\tc-compiler, gcc-x86-64-linux-gnu (= 4:12)\n'
printf 'installed\tpkgconf\tpkg-config (= 1.8)\n'
printf 'config-files\tflex\t\n'
cat "${0%/*}/extra" 2>/dev/null || true
"""
APT_GET = r"""#!/bin/sh
echo "$@" >>"${0%/*}/calls"
case "$*" in
*install*)
    [ ! -e "${0%/*}/fail" ] || { cat "${0%/*}/fail"; exit 100; }
    printf 'installed\tflex\t\n' >"${0%/*}/extra" ;;
esac
"""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose dpkg-query and apt-get are scripts in this directory."""
    for name, text in (("dpkg-query", DPKG_QUERY), ("apt-get", APT_GET)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def test_missing_counts_what_is_provided_and_not_what_was_removed(host: Path) -> None:
    assert host_packages.missing(["gcc", "pkg-config", "flex", "bison"]) == ["flex", "bison"]
    assert host_packages.missing([]) == []


def test_needed_is_one_sorted_list() -> None:
    assert host_packages.needed(["environment", "emulator"]).count("python3-venv") == 1
    assert "uidmap" in host_packages.needed(["image"])


def test_install_runs_apt_without_questions(host: Path) -> None:
    said: list[str] = []

    def report(text: str, _fraction: float | None = None) -> None:
        said.append(text)

    host_packages.install(["flex"], log=host / "log", uid=0, now=NOW, report=report)
    last = (host / "calls").read_text().splitlines()[-1]
    assert last == "--quiet install --yes --no-install-recommends flex"
    assert said[-1] == "installing flex"
    assert "flex" in (host / "log").read_text()


def test_only_root_installs(host: Path) -> None:
    with pytest.raises(UnavailableError, match="only root can install flex, bison") as caught:
        host_packages.install(["flex", "bison"], log=host / "log", uid=1000, now=NOW)
    assert caught.value.hint.endswith("sudo apt-get install --no-install-recommends flex bison")
    assert not (host / "calls").exists()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("E: Unable to locate package flex", "no such package"),
        ("E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7", "another program"),
        ("what?", "failed with exit code 100"),
    ],
)
def test_apts_failures_are_explained(host: Path, output: str, message: str) -> None:
    (host / "fail").write_text(output + "\n")
    with pytest.raises(UnavailableError, match=message):
        host_packages.install(["flex"], log=host / "log", uid=0, now=NOW)


def test_a_package_that_is_still_missing_is_an_error(host: Path) -> None:
    with pytest.raises(UnavailableError, match="bison are still not installed"):
        host_packages.install(["bison"], log=host / "log", uid=0, now=NOW)


def test_the_age_of_the_hosts_lists(tmp_path: Path) -> None:
    assert host_packages._lists_are_old(tmp_path / "absent", NOW)
    assert host_packages._lists_are_old(tmp_path, NOW)
    (tmp_path / "m_dists_x_main_binary-amd64_Packages").touch()
    os.utime(tmp_path, (NOW.timestamp(), NOW.timestamp()))
    assert not host_packages._lists_are_old(tmp_path, NOW)
    os.utime(tmp_path, (NOW.timestamp() - 90_000,) * 2)
    assert host_packages._lists_are_old(tmp_path, NOW)


def test_debian_has_every_package_of_the_list() -> None:
    """Where the host has package lists, each name of ours must be in them."""
    names = host_packages.needed(host_packages.PURPOSES)
    try:
        shown = subprocess.run(
            ["apt-cache", "show", "--no-all-versions", *names], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("no apt-cache on this machine")
    if "Package: gcc\n" not in shown.stdout:
        pytest.skip("the host has no package lists")
    assert shown.returncode == 0, shown.stderr
