from __future__ import annotations

import hashlib
import os
import shutil
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from tdxstack.errors import CommandError, UnavailableError, UsageError
from tdxstack.toolbox import apt_conf
from tdxstack.toolbox.apt import AptRoot, Deb, extract
from tdxstack.toolbox.archive import Archive, Mirror

from .conftest import NOW, Key, LocalArchive


def make(tmp_path: Path, local: LocalArchive, keyring: Path, *, require_fresh: bool = False) -> AptRoot:
    return AptRoot(
        tmp_path / "apt",
        local.archive(keyring),
        ["trixie"],
        now=NOW,
        require_fresh=require_fresh,
        source_packages=True,
    )


def test_update_tells_what_the_release_file_says(tmp_path: Path, local: LocalArchive, keyring: Path) -> None:
    (release,) = make(tmp_path, local, keyring).update()
    assert (release.suite, release.origin, release.version) == ("trixie", "Debian", "13.7")
    assert release.date.isoformat() == "2026-11-19T08:00:00+00:00"
    assert not release.expired
    assert release.warning == ""


def test_fetch_brings_dependencies(tmp_path: Path, local: LocalArchive, keyring: Path) -> None:
    apt = make(tmp_path, local, keyring)
    apt.update()
    debs = apt.fetch(["thing"])
    assert [(deb.name, deb.version) for deb in debs] == [("libthing", "2:1.5-1"), ("thing", "1.0")]
    assert all(files_sha256(deb.path) == deb.sha256 for deb in debs)
    assert [deb.name for deb in apt.fetch(["thing=1.0"], with_dependencies=False)] == ["thing"]
    assert [deb.name for deb in apt.fetch(["libthing/stable"])] == ["libthing"]


def test_files_that_are_listed_only_with_longer_hashes(
    tmp_path: Path, local: LocalArchive, keyring: Path
) -> None:
    local.algorithm = "sha512"
    local.add("long", depends="thing")
    local.algorithm = "md5"
    local.add("short")
    local.publish()
    apt = make(tmp_path, local, keyring)
    apt.update()
    debs = apt.fetch(["long"])
    assert [deb.name for deb in debs] == ["libthing", "long", "thing"]
    debs[1].path.write_bytes(b"rubbish")
    assert apt.fetch(["long"], with_dependencies=False) == [debs[1]]
    assert debs[1].sha256 == files_sha256(debs[1].path)
    with pytest.raises(UnavailableError, match=r"hash.*short"):
        apt.fetch(["short"])


def test_extract_is_whole_or_absent(tmp_path: Path, local: LocalArchive, keyring: Path) -> None:
    apt = make(tmp_path, local, keyring)
    apt.update()
    debs = apt.fetch(["thing"])
    bad = tmp_path / "bad.deb"
    bad.write_bytes(b"!<arch>\nnot a package")
    with pytest.raises(CommandError):
        extract([*debs, Deb("bad", "1", bad, "")], tmp_path / "trees/tree")
    assert not [path for path in (tmp_path / "trees").iterdir() if path.is_dir()]
    tree = extract(debs, tmp_path / "trees/tree")
    assert (tree / "usr/share/libthing/data").read_bytes() == b"libthing"
    assert (tree / "bin/thing").stat().st_mode & 0o7777 == 0o755, "set-user-id bits are dropped"
    (tree / "mark").touch()
    assert (extract([], tree) / "mark").exists(), "a tree that is there is left alone"


def test_source_tarball(tmp_path: Path, local: LocalArchive, keyring: Path) -> None:
    tarball = local.add_source("qemu", "10.0.1+ds-1", b"tarball")
    local.publish()
    apt = make(tmp_path, local, keyring)
    apt.update()
    (file,) = apt.fetch_source("qemu")
    assert (file.name, file.path.read_bytes()) == ("qemu_10.0.1+ds.orig.tar.xz", b"tarball")
    tarball.write_bytes(b"TARBALL")
    assert apt.fetch_source("qemu") == [file], "the copy that was checked is used"
    shutil.rmtree(tmp_path / "apt/cache/sources")
    with pytest.raises(UnavailableError):
        apt.fetch_source("qemu")


def test_pool_file(tmp_path: Path, local: LocalArchive, keyring: Path) -> None:
    path = local.add_source("qemu", "10.0.1+ds-1", b"tarball")
    apt = make(tmp_path, local, keyring)
    right = files_sha256(path)
    apt.fetch_file(f"pool/qemu/{path.name}", right, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"tarball"
    with pytest.raises(UnavailableError):
        apt.fetch_file(f"pool/qemu/{path.name}", "0" * 64, tmp_path / "other")
    with pytest.raises(UnavailableError):
        apt.fetch_file("pool/qemu/absent", right, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_strangers_signature_is_refused(
    tmp_path: Path, local: LocalArchive, keyring: Path, keys: tuple[Key, Key]
) -> None:
    stranger = keys[1].export(tmp_path / "stranger.gpg")
    with pytest.raises(UnavailableError, match="signature was not accepted") as caught:
        make(tmp_path, local, stranger).update()
    assert "keyring" in caught.value.hint
    with pytest.raises(UnavailableError, match="no package lists"):
        make(tmp_path, local, stranger).releases()


def test_an_unsigned_archive_is_refused(tmp_path: Path, local: LocalArchive, keyring: Path) -> None:
    local.publish(signed=False)
    with pytest.raises(UnavailableError, match="signature was not accepted"):
        make(tmp_path, local, keyring).update()


def test_a_changed_release_file_is_refused_and_the_old_lists_stay(
    tmp_path: Path, local: LocalArchive, keyring: Path
) -> None:
    apt = make(tmp_path, local, keyring)
    apt.update()
    release = local.root / "dists/trixie/InRelease"
    release.write_bytes(release.read_bytes().replace(b"Version: 13.7", b"Version: 13.8"))
    with pytest.raises(UnavailableError, match="signature was not accepted"):
        apt.update()
    assert apt.releases()[0].version == "13.7"


def test_a_changed_index_is_refused(tmp_path: Path, local: LocalArchive, keyring: Path) -> None:
    index = local.root / "dists/trixie/main/binary-amd64/Packages"
    index.write_bytes(index.read_bytes().replace(b"thing", b"thong"))
    # newer versions of apt give no reason for a file on this machine
    with pytest.raises(
        UnavailableError, match=r"not the one that its signed index names|main/binary-amd64/Pack"
    ):
        make(tmp_path, local, keyring).update()


def test_a_changed_package_is_refused(tmp_path: Path, local: LocalArchive, keyring: Path) -> None:
    apt = make(tmp_path, local, keyring)
    apt.update()
    deb = next((local.root / "pool").glob("thing_*"))
    data = bytearray(deb.read_bytes())
    data[-1] ^= 1
    deb.write_bytes(data)
    with pytest.raises(UnavailableError):
        apt.fetch(["thing"])


def test_an_expired_suite_is_used_with_a_warning_or_refused(
    tmp_path: Path, local: LocalArchive, keyring: Path
) -> None:
    local.publish(date="Thu, 05 Nov 2026 08:00:00 UTC", valid_until="Thu, 12 Nov 2026 08:00:00 UTC")
    (release,) = make(tmp_path, local, keyring).update()
    assert release.expired
    assert "2026-11-12" in release.warning
    with pytest.raises(UnavailableError, match=r"trixie.*2026-11-05"):
        make(tmp_path, local, keyring, require_fresh=True).update()
    local.publish()
    (release,) = make(tmp_path, local, keyring, require_fresh=True).update(max_age=timedelta(days=36500))
    assert not release.expired, "lists that are past their date are not recent enough"


def test_lists_are_not_downloaded_again_before_their_age(
    tmp_path: Path, local: LocalArchive, keyring: Path
) -> None:
    apt = make(tmp_path, local, keyring)
    apt.update()
    stamp = tmp_path / "apt/updated"
    (local.root / "dists").rename(local.root / "away")
    os.utime(stamp, (NOW.timestamp() - 3600, NOW.timestamp() - 3600))
    assert apt.update(max_age=timedelta(hours=2))[0].version == "13.7"
    with pytest.raises(UnavailableError, match="does not carry"):
        apt.update(max_age=timedelta(minutes=30))


@pytest.mark.parametrize("name", ["nosuch", "thing=7", "thing/sid"])
def test_an_unknown_package_is_named(tmp_path: Path, local: LocalArchive, keyring: Path, name: str) -> None:
    apt = make(tmp_path, local, keyring)
    apt.update()
    with pytest.raises(UnavailableError, match=r"no such package.*(nosuch|thing)"):
        apt.fetch([name])


def test_missing_dependencies_are_said_to_be_missing(
    tmp_path: Path, local: LocalArchive, keyring: Path
) -> None:
    apt = make(tmp_path, local, keyring)
    apt.update()
    with pytest.raises(UnavailableError, match="dependencies cannot be satisfied"):
        apt.fetch(["broken"])


@pytest.mark.parametrize("name", ["", "-o=x", "a b", "thing;ls", "../x"])
def test_what_is_no_package_name_never_reaches_apt(
    tmp_path: Path, local: LocalArchive, keyring: Path, name: str
) -> None:
    apt = make(tmp_path, local, keyring)
    with pytest.raises(UsageError, match="no package name"):
        apt.fetch([name])
    with pytest.raises(UsageError, match="no package name"):
        apt.fetch_source(name)
    assert not (tmp_path / "apt").exists()


def test_an_unreachable_mirror_is_said_to_be_unreachable(
    tmp_path: Path, keyring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt_conf, "RETRIES", 0)
    archive = Archive("debian", "bookworm", Mirror("http://127.0.0.1:9/debian", keyring), None)
    apt = AptRoot(tmp_path / "apt", archive, ["trixie"], now=NOW)
    with pytest.raises(UnavailableError, match="could not be reached") as caught:
        apt.update()
    assert "--mirror" in caught.value.hint


def test_two_at_once_wait_for_each_other(tmp_path: Path, local: LocalArchive, keyring: Path) -> None:
    failures: list[Exception] = []

    def work() -> None:
        try:
            apt = make(tmp_path, local, keyring)
            apt.update()
            assert len(apt.fetch(["thing"])) == 2
        except (UnavailableError, AssertionError) as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_only_the_hosts_network_settings_are_taken_over(
    tmp_path: Path, local: LocalArchive, keyring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = tmp_path / "host.conf"
    host.write_text(
        'Acquire::http::Proxy "http://proxy.example:3128";\n'
        'Acquire::http::Proxy::internal.example "DIRECT";\n'
        'Acquire::https::CaInfo "/etc/ssl/company.pem";\n'
        'Acquire::http::Timeout "900";\n'
        f'APT::Update::Pre-Invoke {{ "touch {tmp_path}/hook"; }};\n'
        'APT::Default-Release "stable";\n'
        'Acquire::AllowInsecureRepositories "true";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(host))
    make(tmp_path, local, keyring).update()
    config = tmp_path / "apt/apt.conf"
    text = config.read_text()
    assert config.stat().st_mode & 0o777 == 0o600, "proxies may have passwords"
    assert 'Acquire::http::Proxy "http://proxy.example:3128";' in text
    assert 'Acquire::http::Proxy::internal.example "DIRECT";' in text
    assert 'Acquire::https::CaInfo "/etc/ssl/company.pem";' in text
    assert text.index('Timeout "900"') < text.index('Timeout "30"'), "ours comes last and counts"
    assert "Default-Release" not in text
    assert 'AllowInsecureRepositories "true"' not in text
    assert not (tmp_path / "hook").exists()


def test_what_an_interrupted_run_left_does_no_harm(
    tmp_path: Path, local: LocalArchive, keyring: Path
) -> None:
    apt = make(tmp_path, local, keyring)
    apt.update()
    debs = apt.fetch(["thing"])
    half = debs[1].path.read_bytes()[:100]
    debs[1].path.write_bytes(half)
    (tmp_path / "apt/cache/archives/partial" / debs[0].path.name).write_bytes(b"rubbish")
    (tmp_path / "trees/.tree.xyz.part/root").mkdir(parents=True)
    assert apt.fetch(["thing"]) == debs
    assert files_sha256(debs[1].path) == debs[1].sha256
    extract(debs, tmp_path / "trees/tree")
    assert not list((tmp_path / "trees").glob("*.part"))


def files_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
