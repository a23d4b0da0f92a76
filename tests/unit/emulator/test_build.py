from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tdxstack.emulator import build as module
from tdxstack.emulator.locate import locate, prune, status, work_directory
from tdxstack.emulator.source import file_sha256
from tdxstack.errors import CommandError, MalformedError, UnavailableError
from tdxstack.toolbox import host_packages

from .conftest import NOW, Workplace, tarball

PYTHON = r"""#!/bin/sh
# stands for python -m venv, and for a pip that fails
[ "$2" != venv ] || { mkdir -p "$3/bin"; cp "$0" "$3/bin/python3"; exit 0; }
exit 1
"""


def output(argv: list[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def test_a_patched_program_is_built_and_found(workplace: Workplace) -> None:
    progress: list[float] = []

    def report(_text: str, fraction: float | None = None) -> None:
        if fraction is not None:
            progress.append(fraction)

    emulator = workplace.build(report)
    assert output([str(emulator.binary)]) == "QEMU emulator: patched"
    assert emulator.argv_prefix == [str(emulator.binary), "-L", str(emulator.data_dir)]
    assert sorted(path.name for path in emulator.data_dir.iterdir()) == ["keymaps", "linuxboot_dma.bin"]
    assert (emulator.version, emulator.patches) == ("9.9.9", ("first.patch",))
    assert emulator.data_packages == {"seabios": "1.2"}
    assert emulator.built == "2026-11-20T12:00:00+00:00"
    assert progress == sorted(progress)
    assert progress[-1] <= 1
    assert locate(workplace.cache, workplace.recipe) == emulator
    assert status(workplace.cache) == [emulator]
    assert not workplace.work.exists(), "the space is given back"
    assert "--target-list=x86_64-softmmu" in (emulator.directory / "build.log").read_text()


def test_the_second_build_is_the_first(workplace: Workplace) -> None:
    emulator = workplace.build()
    mark = emulator.directory / "mark"
    mark.touch()
    workplace.break_with("this must not run")
    assert workplace.build() == emulator
    assert mark.exists()


def test_another_patch_or_source_is_another_build(workplace: Workplace) -> None:
    first = workplace.build()
    (workplace.patches / "series").write_text("")
    assert locate(workplace.cache, workplace.recipe) is None, "made by another recipe"
    second = workplace.build()
    assert output([str(second.binary)]) == "QEMU emulator: plain"
    assert second.key != first.key
    assert {emulator.key for emulator in status(workplace.cache)} == {first.key, second.key}
    assert prune(workplace.cache, workplace.recipe)
    assert status(workplace.cache) == [second]
    assert locate(workplace.cache, workplace.recipe) == second


def test_a_damaged_result_is_built_again(workplace: Workplace) -> None:
    emulator = workplace.build()
    emulator.binary.unlink()
    assert locate(workplace.cache, workplace.recipe) is None
    assert workplace.build().binary.is_file()
    (emulator.directory / "build.json").write_text("{")
    assert locate(workplace.cache, workplace.recipe) is None
    assert workplace.build() == locate(workplace.cache, workplace.recipe)


def test_a_patch_that_does_not_apply_is_named(workplace: Workplace) -> None:
    (workplace.patches / "second.patch").write_text((workplace.patches / "first.patch").read_text())
    (workplace.patches / "series").write_text("first.patch\nsecond.patch\n")
    with pytest.raises(MalformedError, match=r"second\.patch does not apply to QEMU 9\.9\.9") as caught:
        workplace.build()
    assert str(workplace.work / "build.log") in caught.value.hint
    assert not (workplace.work / "source").exists()
    (workplace.patches / "third.patch").write_text("gone")
    (workplace.patches / "series").write_text("fourth.patch\n")
    with pytest.raises(UnavailableError, match=r"fourth\.patch is missing"):
        workplace.build()


NEAR_MISS = """\
--- a/lines
+++ b/lines
@@ -1,7 +1,8 @@
 another
 two
 three
 four
+four and a half
 five
 six
 seven
"""


def test_a_patch_goes_only_where_all_of_its_context_is(workplace: Workplace) -> None:
    (workplace.patches / "near.patch").write_text(NEAR_MISS)
    (workplace.patches / "series").write_text("near.patch\n")
    with pytest.raises(MalformedError, match=r"near\.patch does not apply"):
        workplace.build()
    (workplace.patches / "near.patch").write_text(NEAR_MISS.replace("another", "one"))
    workplace.build()


def test_a_tarball_that_changed_is_refused(workplace: Workplace) -> None:
    with workplace.source.path.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(MalformedError, match="has changed"):
        workplace.build()
    assert locate(workplace.cache, workplace.recipe) is None


def test_a_tarball_of_something_else_is_refused(workplace: Workplace, tmp_path: Path) -> None:
    path = tarball(tmp_path / "other.tar.xz", {"message": ("plain\n", 0o644)})
    sha256 = file_sha256(path)
    workplace.source = dataclasses.replace(workplace.source, path=path, sha256=sha256)
    with pytest.raises(MalformedError, match="no source of QEMU"):
        workplace.build()
    path.write_bytes(b"no tar archive")
    workplace.source = dataclasses.replace(workplace.source, sha256=file_sha256(path))
    with pytest.raises(CommandError, match="cannot be unpacked"):
        workplace.build()


def test_too_little_space_is_said_before_anything_is_done(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NEEDED_BYTES", 1 << 60)
    with pytest.raises(UnavailableError, match=r"building QEMU needs"):
        workplace.build()
    assert not (workplace.work / "source").exists()


def test_no_space_while_compiling_is_said_plainly(workplace: Workplace) -> None:
    workplace.break_with("fatal error: error writing to x.s: No space left on device\n")
    with pytest.raises(CommandError, match="no space left"):
        workplace.build()


def test_a_failed_compilation_is_taken_up_where_it_was(workplace: Workplace) -> None:
    workplace.break_with("x.c:1: error: expected declaration\n")
    with pytest.raises(CommandError, match="expected declaration") as caught:
        workplace.build()
    assert str(workplace.work / "build.log") in caught.value.hint
    assert locate(workplace.cache, workplace.recipe) is None
    mark = workplace.work / "build/mark"
    mark.touch()
    workplace.mend()
    emulator = workplace.build()
    assert (emulator.directory / "build.log").read_text().count("configure ") == 1, "not configured again"


def test_configure_failing_names_the_missing_packages(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_packages, "missing", lambda packages: ["libslirp-dev"])
    monkeypatch.setattr(module, "_CLEAN", ())
    monkeypatch.setenv("CFLAGS", "-O3")
    with pytest.raises(CommandError, match="CFLAGS came through") as caught:
        workplace.build()
    assert "install libslirp-dev" in caught.value.hint


def test_the_callers_compiler_settings_do_not_matter(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CFLAGS", "-O3")
    workplace.build()


def test_missing_python_packages_are_no_riddle(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    python = workplace.root / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    recipe = dataclasses.replace(workplace.recipe, options=("--other",))
    with pytest.raises(UnavailableError, match="meson could not be installed") as caught:
        module.build(workplace.cache, workplace.source, workplace.toolbox, now=NOW, recipe=recipe)
    work = work_directory(workplace.cache, recipe.key(workplace.source.sha256))
    assert str(work / "build.log") in caught.value.hint
    assert not (work / "venv/.done").exists()
    log = (work / "build.log").read_text()
    assert "--require-hashes" in log
    assert "--only-binary=:all:" in log


def _build_in_child(workplace: Workplace) -> None:
    os.setpgrp()
    workplace.build()


def test_a_killed_build_leaves_nothing_and_is_taken_up_again(workplace: Workplace) -> None:
    (workplace.root / "hold").touch()
    child = multiprocessing.get_context("fork").Process(target=_build_in_child, args=(workplace,))
    child.start()
    ninja = workplace.root / "hold.pid"
    deadline = time.monotonic() + 30
    while not (ninja.exists() and ninja.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    os.kill(int(ninja.read_text()), signal.SIGKILL)
    assert locate(workplace.cache, workplace.recipe) is None
    assert status(workplace.cache) == []
    (workplace.root / "hold").unlink()
    assert output([str(workplace.build().binary)]) == "QEMU emulator: patched"


def test_two_builders_wait_for_each_other(workplace: Workplace) -> None:
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_build_in_child, args=(workplace,)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    (emulator,) = status(workplace.cache)
    assert (emulator.directory / "build.log").read_text().count("] Compiling C object 1.o") == 1


def test_prune_leaves_nothing_of_interrupted_builds(workplace: Workplace) -> None:
    workplace.break_with("error")
    with pytest.raises(CommandError):
        workplace.build()
    assert workplace.work.exists()
    prune(workplace.cache, workplace.recipe)
    assert not workplace.work.exists()
