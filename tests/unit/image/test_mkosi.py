from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tdxstack.errors import CommandError
from tdxstack.image import mkosi
from tdxstack.image.recipe import Mkosi
from tdxstack.run import Argv
from tdxstack.toolbox.programs import Toolbox

FEDORA = Mkosi(
    distribution="fedora", release="42", mirror="https://mirror.invalid", packages=["systemd", "kernel"]
)


def test_configuration() -> None:
    files = mkosi.configuration(FEDORA, "")
    lines = files["mkosi.conf"].splitlines()
    assert lines[:4] == [
        "[Distribution]",
        "Distribution=fedora",
        "Release=42",
        "Mirror=https://mirror.invalid",
    ]
    assert lines[-2:] == ["        systemd", "        kernel"]
    assert "Format=ext4" in files["mkosi.repart/10-root.conf"]
    assert not [path for path in files if "apt" in path]


def test_the_sources_of_apt_take_the_mirrors_place() -> None:
    files = mkosi.configuration(FEDORA, "Types: deb\n")
    assert "Mirror=" not in files["mkosi.conf"]
    assert "InitrdPackages" not in files["mkosi.conf"]
    debian = Mkosi(distribution="debian", release="testing", packages=["systemd"])
    assert "InitrdPackages=mount\n" in mkosi.configuration(debian, "Types: deb\n")["mkosi.conf"]
    assert files["mkosi.sandbox/etc/apt/sources.list.d/mkosi.sources"] == "Types: deb\n"


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], *, fails: bool) -> list[str]:
    said: list[str] = []

    def stream(argv: Argv, *, on_line: Callable[[str], None], cwd: Path, **_: object) -> None:
        assert (cwd / "mkosi.postinst.chroot").stat().st_mode & 0o111
        assert not (cwd / "mkosi.conf").stat().st_mode & 0o111
        assert f"--tools-tree={tmp_path}" in list(argv)
        for line in lines:
            on_line(line)
        if fails:
            raise CommandError("env failed")

    def report(text: str, fraction: float | None = None) -> None:
        said.append(text)

    monkeypatch.setattr(mkosi, "stream", stream)
    toolbox = cast(Toolbox, SimpleNamespace(tree=lambda *_: tmp_path))
    made = mkosi.build(
        *(FEDORA, "", tmp_path / "packages", toolbox, tmp_path / "work"), log=tmp_path / "log", report=report
    )
    assert made == tmp_path / "work/recipe/base.raw"
    return said


def test_stages_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["\N{TRIANGULAR BULLET} Building image", "noise"]
    assert run(tmp_path, monkeypatch, lines, fails=False) == ["mkosi", "mkosi: Building image"]


@pytest.mark.parametrize(
    ("lines", "said"), [(["E: no mirror", "rc 1"], "E: no mirror"), (["odd"], "odd"), ([], "")]
)
def test_the_reason_of_a_failure_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], said: str
) -> None:
    with pytest.raises(CommandError) as caught:
        run(tmp_path, monkeypatch, lines, fails=True)
    assert caught.value.message == f"mkosi has failed: {said}"
    assert "log" in caught.value.hint


@pytest.mark.parametrize("linked", ["", "boot/config-1.2", "usr/lib/modules/1.2/config"])
def test_the_kernels_configuration_is_kept_where_boot_is_not_taken_away(tmp_path: Path, linked: str) -> None:
    """The script, with both places moved; one of the two files may be a link to the other."""
    boot, kept = tmp_path / "boot/config-1.2", tmp_path / "usr/lib/modules/1.2/config"
    for path in (boot, kept):
        path.parent.mkdir(parents=True)
    (kept if linked.startswith("boot") else boot).write_text("CONFIG_X=y\n")
    if linked:
        link = tmp_path / linked
        link.symlink_to(kept if link == boot else boot)
    script = mkosi.configuration(FEDORA, "")["mkosi.postinst.chroot"]
    moved = script.replace("/boot/", f"{tmp_path}/boot/").replace("/usr/lib/", f"{tmp_path}/usr/lib/")
    for _ in range(2):
        subprocess.run(["sh", "-euc", moved], check=True)
    shutil.rmtree(tmp_path / "boot")
    assert not kept.is_symlink()
    assert kept.read_text() == "CONFIG_X=y\n"
    assert [path.name for path in kept.parent.iterdir()] == ["config"]
    subprocess.run(["sh", "-euc", moved], check=True)
