from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tdxstack.errors import UnavailableError, UsageError
from tdxstack.toolbox import programs
from tdxstack.toolbox.apt import AptRoot
from tdxstack.toolbox.programs import Toolbox, Toolset

from .conftest import NOW, LocalArchive


def loader() -> Path:
    """This machine's own dynamic loader."""
    path = Path("/lib64/ld-linux-x86-64.so.2")
    if not path.exists():
        pytest.skip("no x86-64 dynamic loader on this machine")
    return path


@pytest.fixture
def toolbox(tmp_path: Path, local: LocalArchive, keyring: Path, monkeypatch: pytest.MonkeyPatch) -> Toolbox:
    """A toolbox over the local archive, whose e2fsprogs is /bin/echo and whose host has only ssh."""
    echo = Path("/bin/echo").read_bytes()
    names = [f"usr/sbin/{name}" for name in ("debugfs", "e2fsck", "mkfs.ext4", "resize2fs")]
    local.add("libc6", files={"usr/lib64/ld-linux-x86-64.so.2": loader().read_bytes(), **libraries()})
    local.add("e2fsprogs", "1.47.2", depends="libc6", files=dict.fromkeys(names, echo))
    local.publish()
    monkeypatch.setattr(
        programs, "TOOLSETS", {"image": Toolset(("e2fsprogs",)), "ssh": Toolset(("openssh-client",))}
    )
    tools = {
        name: tool
        for name, tool in programs._TOOLS.items()
        if tool.package in ("e2fsprogs", "openssh-client")
    }
    monkeypatch.setattr(programs, "_TOOLS", tools)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh").write_text("#!/bin/sh\n")
    (tmp_path / "bin/ssh").chmod(0o755)
    (tmp_path / "bin/mkfs.ext4").symlink_to("ssh")
    archive = local.archive(keyring)
    return Toolbox(
        tmp_path / "toolbox",
        lambda: AptRoot(tmp_path / "apt", archive, ["trixie"], now=NOW),
        search_path=str(tmp_path / "bin"),
    )


def libraries() -> dict[str, bytes]:
    """What this machine's echo links with, where a package of Debian's would have it."""
    listed = subprocess.run(["ldd", "/bin/echo"], capture_output=True, text=True, check=True).stdout
    paths = [Path(line.split("=>")[1].split()[0]) for line in listed.splitlines() if "=> /" in line]
    return {f"usr/lib/x86_64-linux-gnu/{path.name}": path.read_bytes() for path in paths}


def test_a_program_is_fetched_and_runs_through_its_own_loader(toolbox: Toolbox, tmp_path: Path) -> None:
    assert {program.origin for program in toolbox.status() if program.name != "ssh"} == {"absent"}
    program = toolbox.program("mkfs.ext4")
    assert (program.origin, program.version) == ("toolbox", "1.47.2")
    done = subprocess.run(program.argv("a b", "$x"), capture_output=True, text=True, check=True, env={})
    assert done.stdout == "a b $x\n"
    assert toolbox.packages("image")["libc6"] == "1.0"
    moved = tmp_path / "a moved 'tree"
    shutil.copytree(program.path.parent.parent, moved)
    done = subprocess.run([moved / "run/mkfs.ext4", "y"], capture_output=True, text=True, check=True)
    assert done.stdout == "y\n"


def test_the_hosts_program_is_taken_only_where_any_version_will_do(toolbox: Toolbox, tmp_path: Path) -> None:
    assert toolbox.program("ssh").path == tmp_path / "bin/ssh"
    assert toolbox.program("mkfs.ext4").origin == "toolbox"
    with pytest.raises(UnavailableError, match="no such package"):
        toolbox.program("ssh-keygen")


def test_a_tree_is_used_again_and_replaced_by_a_newer_one(
    toolbox: Toolbox, local: LocalArchive, tmp_path: Path
) -> None:
    first = toolbox.tree("image")
    assert toolbox.tree("image", refresh=True) == first
    shutil.rmtree(tmp_path / "apt")
    assert toolbox.tree("image") == first, "without any apt"
    echo = Path("/bin/echo").read_bytes()
    names = [f"usr/sbin/{name}" for name in ("debugfs", "e2fsck", "mkfs.ext4", "resize2fs")]
    local.add("e2fsprogs", "1.48", depends="libc6", files=dict.fromkeys(names, echo))
    local.publish()
    second = toolbox.tree("image", refresh=True)
    assert second != first
    assert first.is_dir(), "somebody may be using it"
    assert toolbox.program("mkfs.ext4").version == "1.48"


def test_a_damaged_record_is_made_again(toolbox: Toolbox, tmp_path: Path) -> None:
    first = toolbox.tree("image")
    record = tmp_path / "toolbox/image.json"
    for damage in (b"", b"[]", b"{", json.dumps({"tree": "../..", "wanted": []}).encode()):
        record.write_bytes(damage)
        assert toolbox.program("mkfs.ext4").path == first.parent / "run/mkfs.ext4"


def test_scripts_of_another_version_are_made_again(toolbox: Toolbox) -> None:
    program = toolbox.program("mkfs.ext4")
    good = program.path.read_text()
    for damage in (program.path.unlink, lambda: program.path.write_text("#!/bin/sh\n")):
        damage()
        assert toolbox.program("mkfs.ext4") == program
        assert program.path.read_text() == good


def test_a_script_is_run_by_its_interpreter(toolbox: Toolbox, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = programs._Tool("image", "e2fsprogs", "usr/sbin/debugfs", interpreter="usr/sbin/mkfs.ext4")
    monkeypatch.setitem(programs._TOOLS, "script", tool)
    program = toolbox.program("script")
    done = subprocess.run(program.argv("a b"), capture_output=True, text=True, check=True)
    assert done.stdout == f"{program.path.parent}/../root/usr/sbin/debugfs a b\n"


def test_packages_without_the_program_are_refused(
    toolbox: Toolbox, local: LocalArchive, tmp_path: Path
) -> None:
    local.add("e2fsprogs", "2.0", depends="libc6", files={"usr/sbin/other": b""})
    local.publish()
    with pytest.raises(UnavailableError, match="have no usr/sbin/"):
        toolbox.tree("image")
    assert not (tmp_path / "toolbox/image.json").exists()


def test_unknown_names(toolbox: Toolbox) -> None:
    with pytest.raises(UsageError, match="rm"):
        toolbox.program("rm")
    with pytest.raises(UsageError, match="kitchen"):
        toolbox.tree("kitchen")
