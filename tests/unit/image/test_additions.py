from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import tdxstack
from tdxstack.errors import UsageError
from tdxstack.image.additions import SEED, additions
from tdxstack.image.distribution import DISTRIBUTIONS
from tdxstack.image.guest_side import GuestFile, guest_files
from tdxstack.image.recipe import parse_recipe
from tests.unit.image.test_recipe import KEY

PACKAGE = Path(tdxstack.__file__).parent
DEBIAN = DISTRIBUTIONS["debian"]
SSHD = "etc/ssh/sshd_config.d/tdxstack.conf"


def added(directory: Path = Path(), **recipe: Any) -> dict[str, GuestFile]:
    found = additions(parse_recipe(b"", directory, recipe), DEBIAN, PACKAGE)
    assert [file.path for file in found] == sorted({file.path for file in found})
    return {file.path: file for file in found}


def test_the_default_recipe_adds_the_guest_side() -> None:
    assert list(added().values()) == guest_files(PACKAGE, DEBIAN)


def test_files_and_directories(tmp_path: Path) -> None:
    (tmp_path / "site/deep").mkdir(parents=True)
    (tmp_path / "site/deep/page").write_bytes(b"page")
    (tmp_path / "tool").write_bytes(b"#!")
    (tmp_path / "tool").chmod(0o700)
    found = added(
        tmp_path,
        files=[
            {"source": "site", "target": "/srv"},
            {"source": "tool", "target": "/usr/bin/tool"},
            {"content": "hi", "target": "/etc/hostname", "mode": "0600"},
        ],
    )
    assert found["srv/deep/page"] == GuestFile("srv/deep/page", b"page", 0o644)
    assert found["usr/bin/tool"].mode == 0o755
    assert found["etc/hostname"] == GuestFile("etc/hostname", b"hi", 0o600)


@pytest.mark.parametrize("name", ["a\nb", "a\x1bb", os.fsdecode(b"a\xff")])
def test_a_file_s_name_is_text(name: str, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / name).write_bytes(b"")
    with pytest.raises(UsageError, match="has control characters or is no UTF-8"):
        added(tmp_path, files=[{"source": "site", "target": "/srv"}])


@pytest.mark.parametrize("target", ["nothing", "site/deep"])
def test_what_is_no_file_is_not_left_out_in_silence(target: str, tmp_path: Path) -> None:
    (tmp_path / "site/deep").mkdir(parents=True)
    (tmp_path / "page").write_bytes(b"page")
    (tmp_path / "site/page").symlink_to(tmp_path / "page")
    wanted = [{"source": "site", "target": "/srv"}]
    assert added(tmp_path, files=wanted)["srv/page"].data == b"page"
    (tmp_path / "site/link").symlink_to(tmp_path / target)
    with pytest.raises(UsageError, match="site/link is a link to a directory"):
        added(tmp_path, files=wanted)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"")

    real = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path.parent == tmp_path:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(UsageError, match="x cannot be read: Permission denied"):
        added(tmp_path, files=[{"source": "x", "target": "/x"}])


def test_keys_and_users_open_the_door_to_nobody_else() -> None:
    found = added(ssh_keys=[KEY], users=[{"name": "me", "sudo": True}])
    assert found["root/.ssh/authorized_keys"] == GuestFile(
        "root/.ssh/authorized_keys", f"{KEY}\n".encode(), 0o600
    )
    assert b"AllowUsers root me\n" in found[SSHD].data
    assert b"PasswordAuthentication no\n" in found[SSHD].data
    assert found["etc/sudoers.d/me"].mode == 0o440


def test_cloud_init_makes_accounts_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "user.yaml").write_bytes(b"#cloud-config\npackages: []\n")
    found = added(tmp_path, name="web", cloud_init={"user_data": "user.yaml"})
    assert found[f"{SEED}/user-data"].data == b"#cloud-config\npackages: []\n"
    assert found[f"{SEED}/meta-data"].data == b"instance-id: web\n"
    assert found[f"{SEED}/user-data"].mode == 0o600
    assert b"AllowUsers" not in found[SSHD].data
    assert b"UsePAM yes\n" in found[SSHD].data
    assert "etc/systemd/system/systemd-user-sessions.service" in added()
    assert "etc/systemd/system/systemd-user-sessions.service" not in found
    assert b"PasswordAuthentication no\n" in found[SSHD].data
    assert b"ssh_deletekeys: false" in found["etc/cloud/cloud.cfg.d/90_tdxstack.cfg"].data


def test_without_data_the_seed_is_left_to_a_disk() -> None:
    found = added(cloud_init={})
    assert not [path for path in found if path.startswith(SEED)]
    assert "etc/cloud/cloud.cfg.d/90_tdxstack.cfg" in found


def test_the_name_of_the_machine() -> None:
    found = added(hostname="web")
    assert found["etc/hostname"].data == b"web\n"
    assert b"127.0.1.1 web\n" in found["etc/hosts"].data
