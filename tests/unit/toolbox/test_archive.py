from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import UnavailableError, UsageError
from tdxstack.toolbox.archive import (
    Archive,
    Mirror,
    deb822_entries,
    host_archive,
    one_line_entries,
    os_release,
    stanzas,
)

DEBIAN = 'ID=debian\nVERSION_CODENAME="bookworm"\n'
UBUNTU = "ID=ubuntu\nVERSION_CODENAME=noble\nID_LIKE=debian\n"
KEYRING = "usr/share/keyrings/debian-archive-keyring.gpg"


def host(
    tmp_path: Path, release: str = DEBIAN, sources: dict[str, str] | None = None, keyring: str = KEYRING
) -> Path:
    """A host's file tree with these files below etc/apt."""
    for name, text in {"etc/os-release": release, **(sources or {}), keyring: "key"}.items():
        path = tmp_path / (name if name.startswith(("etc/", "usr/")) else f"etc/apt/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


DEB822 = """\
# the main archive
Types: deb deb-src
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 /usr/share/keyrings/debian-archive-keyring.gpg
"""


def test_deb822_sources(tmp_path: Path) -> None:
    root = host(tmp_path, sources={"sources.list.d/debian.sources": DEB822})
    archive = host_archive(root)
    assert (archive.distribution, archive.codename) == ("debian", "bookworm")
    assert archive.main == Mirror("http://mirror.example/debian", root / KEYRING)
    assert archive.security == Mirror("http://mirror.example/debian-security", root / KEYRING)
    assert archive.stable == ("trixie", "trixie-security")
    assert (archive.backports, archive.unstable) == (("trixie-backports",), ("sid",))


def test_one_line_sources(tmp_path: Path) -> None:
    text = (
        "deb-src http://source.example/debian bookworm main\n"
        "#deb http://commented.example/debian bookworm main\n"
        "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
        "https://mirror.example/debian stable main # the one\n"
    )
    archive = host_archive(host(tmp_path, sources={"sources.list": text}))
    assert archive.main.uri == "https://mirror.example/debian"
    assert archive.security is None
    assert archive.stable == ("trixie",)
    with pytest.raises(UnavailableError, match="trixie-security"):
        archive.mirror("trixie-security")


def test_third_parties_are_passed_over(tmp_path: Path) -> None:
    third = {
        "sources.list.d/a.list": "deb [signed-by=/etc/apt/keyrings/vendor.gpg] "
        "https://apt.vendor.example bookworm main\n",
        "sources.list.d/b.sources": "Types: deb\nURIs: https://vendor.example/linux/debian\n"
        "Suites: bookworm\nComponents: stable\nSigned-By: /etc/apt/keyrings/docker.asc\n",
        "sources.list.d/c.list": "deb https://old.vendor.example/repo bookworm main\n",
        "sources.list.d/d.list.disabled": "deb http://disabled.example/debian bookworm main\n",
        "sources.list.d/e.sources": "Enabled: no\n" + DEB822.replace("mirror", "off").split("\n\n")[0] + "\n",
        "sources.list.d/z.sources": DEB822,
    }
    assert host_archive(host(tmp_path, sources=third)).main.uri == "http://mirror.example/debian"


def test_a_company_mirror_with_its_own_key(tmp_path: Path) -> None:
    line = "deb [signed-by=/etc/apt/keyrings/company.gpg] http://company.example/debian bookworm main\n"
    root = host(tmp_path, sources={"sources.list": line, "keyrings/company.gpg": "key"})
    assert host_archive(root).main.keyring == root / "etc/apt/keyrings/company.gpg"


def test_only_third_parties_is_an_error(tmp_path: Path) -> None:
    line = "deb [signed-by=/etc/apt/keyrings/vendor.gpg] https://apt.vendor.example bookworm main\n"
    with pytest.raises(UnavailableError, match="bookworm") as caught:
        host_archive(host(tmp_path, sources={"sources.list": line}))
    assert "--mirror" in caught.value.hint


def test_mirror_list_of_cloud_images(tmp_path: Path) -> None:
    sources = {
        "sources.list.d/debian.sources": DEB822.replace(
            "http://mirror.example/debian/", "mirror+file:///etc/apt/mirrors/debian.list"
        ),
        "mirrors/debian.list": "# mirrors\nhttps://near.example/debian priority:1\nhttps://far.example/debian\n",
    }
    assert host_archive(host(tmp_path, sources=sources)).main.uri == "https://near.example/debian"


def test_the_callers_mirror_replaces_all(tmp_path: Path) -> None:
    root = host(tmp_path, sources={"sources.list.d/debian.sources": DEB822})
    archive = host_archive(root, mirror="file:///srv/debian/")
    assert archive.main.uri == "copy:///srv/debian", "of file: apt makes no checked copies"
    assert archive.security is None
    for bad in ("srv/debian", "ftp://x/debian", "mirror.example"):
        with pytest.raises(UsageError, match="mirror"):
            host_archive(root, mirror=bad)


def test_ubuntu(tmp_path: Path) -> None:
    text = (
        "Types: deb\nURIs: http://ubuntu.example/ubuntu/\nSuites: noble noble-updates noble-backports\n"
        "Components: main restricted universe multiverse\n"
        "Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg\n\n"
        "Types: deb\nURIs: http://security.example/ubuntu/\nSuites: noble-security\n"
        "Components: main universe\n"
        "Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg\n"
    )
    keyring = "usr/share/keyrings/ubuntu-archive-keyring.gpg"
    root = host(tmp_path, UBUNTU, {"sources.list.d/ubuntu.sources": text}, keyring)
    archive = host_archive(root)
    assert archive.stable == ("resolute", "resolute-updates", "resolute-security")
    assert archive.unstable == ("devel",)
    assert "Components: main universe\n" in archive.sources(("noble",))
    assert archive.mirror("noble-security").uri == "http://security.example/ubuntu"
    overridden = host_archive(root, mirror="http://other.example/ubuntu")
    assert overridden.mirror("noble-security").uri == "http://other.example/ubuntu"


def test_hosts_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="fedora"):
        host_archive(host(tmp_path / "a", "ID=fedora\n"))
    with pytest.raises(UnavailableError, match="unknown"):
        host_archive(tmp_path / "nothing")
    with pytest.raises(UnavailableError, match="VERSION_CODENAME"):
        host_archive(host(tmp_path / "b", "ID=debian\n"))
    with pytest.raises(UnavailableError, match=r"keyring.*is missing"):
        host_archive(host(tmp_path / "c", sources={"sources.list.d/x.sources": DEB822}, keyring="etc/other"))


def test_the_sources_file_names_each_suite_at_its_mirror() -> None:
    archive = Archive(
        "debian", "bookworm", Mirror("http://m/debian", Path("/k")), Mirror("http://s/debian", Path("/k"))
    )
    entries = list(deb822_entries(archive.sources(("trixie", "trixie-security"), source_packages=True)))
    assert [(entry.uris, entry.suites, entry.signed_by) for entry in entries] == [
        (("http://m/debian",), ("trixie",), "/k"),
        (("http://s/debian",), ("trixie-security",), "/k"),
    ]


def test_os_release_falls_back_to_usr_lib(tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/os-release").write_text("# c\nID='debian'\nNAME=\"A = B\"\n")
    assert os_release(tmp_path) == {"ID": "debian", "NAME": "A = B"}


@given(st.text())
def test_sources_parsers_take_anything(text: str) -> None:
    list(one_line_entries(text))
    list(deb822_entries(text))


@given(st.text(alphabet="deb [=]#:/ \n\tTypesURISuite-", max_size=300))
def test_sources_parsers_take_almost_sources(text: str) -> None:
    for entry in [*one_line_entries("deb " + text), *deb822_entries("Types: deb\nURIs: x\nSuites: " + text)]:
        assert entry.uris
        assert entry.suites


@given(
    st.lists(
        st.dictionaries(st.sampled_from(["a", "b-c", "d"]), st.sampled_from(["", "x", "x y"]), min_size=1)
    )
)
def test_stanzas_round_trip(expected: list[dict[str, str]]) -> None:
    text = "\n".join("".join(f"{key}: {value}\n" for key, value in fields.items()) for fields in expected)
    assert list(stanzas(text)) == expected
