from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tdxstack.errors import MalformedError, UnavailableError
from tdxstack.image import base_tree, customise
from tdxstack.run import Argv, Completed, run
from tdxstack.toolbox.apt import Deb


def deb(directory: Path, name: str, head: bytes) -> Deb:
    path = directory / f"{name}.deb"
    path.write_bytes(head)
    return Deb(name, "1", path, "00")


def member(time: str) -> bytes:
    """The start of a package: ar's magic and the first member's header (deb(5), ar(5))."""
    return (
        b"!<arch>\n"
        + b"debian-binary".ljust(16)
        + time.encode().ljust(12)
        + b"0     0     100644  4         `\n2.0\n"
    )


def test_root_needs_no_user_namespace() -> None:
    assert base_tree.namespace(0) == [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
    ]


def test_users_get_their_range_of_ids() -> None:
    assert base_tree.namespace(1000) == [
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--user", "--map-root-user", "--map-auto", "--mount", "--pid", "--fork", "--kill-child"),
    ]


def fake_run(returncode: int, stderr: bytes) -> Callable[..., Completed]:
    def answer(argv: Argv, **_: object) -> Completed:
        return Completed(tuple(str(word) for word in argv), returncode, b"", stderr)

    return answer


def test_a_working_namespace_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_tree, "run", fake_run(0, b""))
    base_tree.check_namespace(1000)


@pytest.mark.parametrize(
    ("uid", "newuidmap", "stderr", "hint"),
    [
        (1000, None, b"unshare: failed to execute newuidmap: No such file or directory", "uidmap"),
        (1000, "/usr/bin/newuidmap", b"unshare: no line matching user in /etc/subuid", "/etc/subuid"),
        (1000, "/usr/bin/newuidmap", b"unshare: unshare failed: Operation not permitted", "sudo"),
        (0, None, b"mount: permission denied", "CAP_SYS_ADMIN"),
    ],
)
def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, uid: int, newuidmap: str | None, stderr: bytes, hint: str
) -> None:
    monkeypatch.setattr(base_tree, "run", fake_run(1, stderr))
    monkeypatch.setattr(shutil, "which", lambda name: newuidmap)
    with pytest.raises(UnavailableError) as caught:
        base_tree.check_namespace(uid)
    assert hint in caught.value.hint
    assert stderr.decode() in caught.value.message
    assert caught.value.exit_code == 3


def test_build_time_is_the_newest_package(tmp_path: Path) -> None:
    debs = [
        deb(tmp_path, name, member(time)) for name, time in (("a", "100"), ("b", "1794781852"), ("c", "5"))
    ]
    assert base_tree.build_time(debs) == 1794781852


@pytest.mark.parametrize("head", [b"", b"!<arch>\n", member("x"), member("-5"), b"PK" + member("1")])
def test_what_is_no_package_is_refused(tmp_path: Path, head: bytes) -> None:
    with pytest.raises(MalformedError, match=r"bad\.deb"):
        base_tree.build_time([deb(tmp_path, "bad", head)])


def test_progress_counts_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["Unpacking a (1) ...", "(Reading database ...)", "Unpacking b (1) ...", "Setting up a (1) ..."]
    seen: list[float | None] = []
    commands: list[list[str]] = []

    def stream(argv: Argv, *, on_line: Callable[[str], None], **_: object) -> None:
        commands.append([str(word) for word in argv])
        for line in lines:
            on_line(line)
        assert sorted(path.name for path in (work / "essential").iterdir()) == ["a.deb"]
        assert sorted(path.name for path in (work / "others").iterdir()) == ["b.deb"]
        (work / "base.tar").write_bytes(b"tar")

    monkeypatch.setattr(base_tree, "check_namespace", lambda uid: None)
    monkeypatch.setattr(base_tree, "stream", stream)
    work = tmp_path / "work"
    one, two = deb(tmp_path, "a", member("7")), deb(tmp_path, "b", member("9"))
    made = base_tree.install(
        [one], [two], work, log=tmp_path / "log", uid=0, report=lambda text, fraction: seen.append(fraction)
    )
    assert made == work / "base.tar"
    assert seen == [0.25, 0.5, 0.75]
    assert commands == [[*base_tree.namespace(0), "sh", str(base_tree.SCRIPT), str(work), "9"]]


@pytest.mark.parametrize(
    "script", [base_tree.SCRIPT, customise.SCRIPT, base_tree.SCRIPT.with_name("namespace.sh")]
)
def test_the_scripts_are_good_sh(script: Path) -> None:
    shell = shutil.which("dash") or "sh"
    done = run([shell, "-n", str(script)])
    assert done.stderr == b""
