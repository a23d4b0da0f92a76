"""A source of QEMU that is built in a moment: scripts in the places of configure, ninja and the result."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tdxstack.emulator import source
from tdxstack.emulator.build import build
from tdxstack.emulator.locate import Emulator, work_directory
from tdxstack.emulator.recipe import Recipe
from tdxstack.emulator.source import Source
from tdxstack.run import Report, silent
from tdxstack.toolbox.apt import AptRoot
from tdxstack.toolbox.programs import TOOLSETS, Toolbox

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)

CONFIGURE = r"""#!/bin/sh
echo "$@" >arguments
[ -z "$CFLAGS" ] || { echo "CFLAGS came through"; exit 1; }
cp "${0%/*}/message" .
"""
NINJA = r"""#!/bin/sh
# stands for ninja: the "program" prints what the source says
echo "$@" >>calls
[ ! -e "$TEST_HOLD" ] || { echo $$ >"$TEST_HOLD.pid"; exec sleep 60; }
for step in 1 2 3; do echo "[$step/3] Compiling C object $step.o"; done
[ ! -e "$TEST_BREAK" ] || { cat "$TEST_BREAK"; exit 1; }
{ echo '#!/bin/sh'; echo "echo 'QEMU emulator: $(cat message)'"; } >qemu-system-x86_64
chmod +x qemu-system-x86_64
"""
PATCH = """\
--- a/message
+++ b/message
@@ -1 +1 @@
-plain
+patched
"""


@dataclass
class Workplace:
    """What a build needs, and the switches of the scripts."""

    root: Path
    cache: Path
    patches: Path
    source: Source
    toolbox: Toolbox

    @property
    def recipe(self) -> Recipe:
        return Recipe.load(self.patches)

    @property
    def work(self) -> Path:
        return work_directory(self.cache, self.recipe.key(self.source.sha256))

    def build(self, report: Report = silent) -> Emulator:
        # a real environment takes seconds and the network
        environment = self.work / "venv"
        (environment / "bin").mkdir(parents=True, exist_ok=True)
        (environment / ".done").touch()
        return build(
            self.cache, self.source, self.toolbox, now=NOW, report=report, jobs=2, recipe=self.recipe
        )

    def break_with(self, text: str) -> None:
        (self.root / "break").write_text(text)

    def mend(self) -> None:
        (self.root / "break").unlink()


def tarball(path: Path, files: dict[str, tuple[str, int]]) -> Path:
    """A compressed tar archive of text files with modes, below one directory."""
    with tarfile.open(path, "w:xz") as archive:
        for name, (text, mode) in files.items():
            member = tarfile.TarInfo(f"qemu-9.9.9/{name}")
            member.mode, member.size = mode, len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def apt_is_not_needed() -> AptRoot:
    raise AssertionError("nothing is to be fetched")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    if not all(shutil.which(name) for name in ("patch", "tar", "xz")):
        pytest.skip("patch, tar or xz is not on this machine")
    path = tarball(
        tmp_path / "qemu_9.9.9+ds.orig.tar.xz",
        {
            "configure": (CONFIGURE, 0o755),
            "VERSION": ("9.9.9\n", 0o644),
            "message": ("plain\n", 0o644),
            "lines": ("one\ntwo\nthree\nfour\nfive\nsix\nseven\n", 0o644),
            "pc-bios/keymaps/de": ("map\n", 0o644),
            "pc-bios/meson.build": ("fds = [\n 'edk2-i386-code.fd',\n]\n", 0o644),
        },
    )
    patches = tmp_path / "patches"
    patches.mkdir()
    (patches / "series").write_text("# the series\nfirst.patch\n")
    (patches / "first.patch").write_text(PATCH)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "ninja").write_text(NINJA)
    (programs / "ninja").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("TEST_BREAK", str(tmp_path / "break"))
    monkeypatch.setenv("TEST_HOLD", str(tmp_path / "hold"))
    data = tmp_path / "toolbox/data/root/usr/share/qemu"
    data.mkdir(parents=True)
    (data / "linuxboot_dma.bin").write_bytes(b"rom")
    (data / "hppa-firmware.img").write_bytes(b"not for x86")
    record = {"tree": "data", "wanted": list(TOOLSETS["qemu-data"].packages), "packages": {"seabios": "1.2"}}
    (tmp_path / "toolbox/qemu-data.json").write_text(json.dumps(record))
    toolbox = Toolbox(tmp_path / "toolbox", apt_is_not_needed, search_path="")
    return Workplace(tmp_path, tmp_path / "cache", patches, source.local_source(path), toolbox)
