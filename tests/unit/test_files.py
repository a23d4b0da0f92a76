from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tdxstack.errors import UnavailableError, UsageError
from tdxstack.files import Directories, is_locked, lock, make_private, read_secret, write_atomically


def test_write_replaces_whole_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "state.json"
    write_atomically(target, b"old")
    write_atomically(target, b"new", mode=0o600)
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    target = tmp_path / "directory"
    target.mkdir()
    (target / "kept").touch()
    with pytest.raises(OSError, match="directory"):
        write_atomically(target, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["directory"]


def test_second_locker_is_refused_until_the_first_leaves(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with lock(path):
        assert is_locked(path)
        with pytest.raises(UnavailableError, match="in use"), lock(path, wait=False):
            pass
    assert not is_locked(path)


def test_child_that_inherits_the_descriptor_keeps_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with lock(path) as descriptor:
        child = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[descriptor]
        )
    assert is_locked(path)
    child.communicate(b"\n")
    assert not is_locked(path)


def test_any_number_may_ask_whether_a_lock_is_held(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    assert not path.exists(), "asking makes nothing"
    path.touch()
    with ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(lambda _: is_locked(path), range(2000)))


ASK = """
import sys
from pathlib import Path
from tdxstack.files import is_locked
print("asking", flush=True)
while True:
    is_locked(Path(sys.argv[1]))
"""


def test_asking_keeps_nobody_from_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", ASK, path], stdout=subprocess.PIPE) as asking:
        try:
            assert asking.stdout is not None
            assert asking.stdout.readline() == b"asking\n"
            for _ in range(10_000):
                with lock(path, wait=False):
                    pass
        finally:
            asking.kill()


def test_private_directories_are_private_all_the_way(tmp_path: Path) -> None:
    make_private(tmp_path / "a/b")
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a", tmp_path / "a/b")} == {0o700}


def test_directories_follow_xdg_and_fall_back_to_home() -> None:
    plain = Directories.of_user({"HOME": "/home/u"}, os.getuid())
    assert plain == Directories(
        Path("/home/u/.cache/tdxstack"),
        Path("/home/u/.local/share/tdxstack"),
        Path("/home/u/.local/share/tdxstack/run"),
    )
    xdg = Directories.of_user(
        {"HOME": "/home/u", "XDG_CACHE_HOME": "/c", "XDG_DATA_HOME": "/d", "XDG_RUNTIME_DIR": "/r"},
        os.getuid(),
    )
    assert xdg == Directories(Path("/c/tdxstack"), Path("/d/tdxstack"), Path("/r/tdxstack"))


def test_secrets_are_not_read_from_files_that_everybody_has(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"key")
    for mode in (0o600, 0o400, 0o640):
        secret.chmod(mode)
        assert read_secret(secret) == b"key"
    for mode in (0o644, 0o604, 0o602, 0o666):
        secret.chmod(mode)
        with pytest.raises(UsageError, match=f"mode {mode:04o}"):
            read_secret(secret)
