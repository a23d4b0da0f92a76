from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tdxstack.errors import UnavailableError
from tdxstack.firmware.fetch import cached, fetch
from tdxstack.run import Report, silent
from tdxstack.toolbox.apt import AptRoot, Deb
from tests.unit.firmware.descriptors import tree

pytestmark = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is not installed")


class FakeApt(AptRoot):
    """An archive with one package."""

    def __init__(self, deb: Deb) -> None:
        self.deb = deb
        self.asked: list[tuple[tuple[str, ...], bool]] = []

    def fetch(
        self, packages: Sequence[str], *, with_dependencies: bool = True, report: Report = silent
    ) -> list[Deb]:
        self.asked.append((tuple(packages), with_dependencies))
        return [self.deb]


def package(work: Path, version: str, *, empty: bool = False) -> Deb:
    root = work / f"build-{version}"
    root.mkdir() if empty else tree(root)
    (root / "DEBIAN").mkdir()
    fields = ["Package: ovmf-inteltdx", f"Version: {version}", "Architecture: all"]
    fields += ["Maintainer: x <x@x>", "Description: x", ""]
    (root / "DEBIAN/control").write_text("\n".join(fields))
    path = work / f"ovmf-inteltdx_{version}_all.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", root, path], check=True, capture_output=True)
    return Deb("ovmf-inteltdx", version, path, "ab" * 32)


def test_fetch_and_cache(tmp_path: Path) -> None:
    apt, cache = FakeApt(package(tmp_path, "2026.08+ds-2")), tmp_path / "cache"
    assert cached(cache) is None
    firmware = fetch(apt, cache)
    assert apt.asked == [(("ovmf-inteltdx",), False)]
    assert firmware.version == "2026.08+ds-2"
    assert firmware.path.is_relative_to(cache)
    assert firmware.path.name == "TDVF.fd"
    assert cached(cache) == firmware
    assert fetch(apt, cache) == firmware


def test_newer_version_is_kept_apart_and_preferred(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    old = fetch(FakeApt(package(tmp_path, "1-1")), cache)
    new = fetch(FakeApt(package(tmp_path, "2-1")), cache)
    for number, firmware in enumerate((old, new)):
        os.utime(cache / firmware.path.relative_to(cache).parts[0], (number, number))
    assert old.path != new.path
    assert cached(cache) == new


def test_package_without_firmware(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="no firmware descriptor offers"):
        fetch(FakeApt(package(tmp_path, "3-1", empty=True)), tmp_path / "cache")
