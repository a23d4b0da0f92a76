"""A small signed archive on disk, as a distribution would publish it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tdxstack.toolbox.archive import Archive, Mirror

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
PUBLISHED = "Thu, 19 Nov 2026 08:00:00 UTC"
VALID_UNTIL = "Thu, 26 Nov 2026 08:00:00 UTC"


@dataclass
class Key:
    """A signing key in a GnuPG home of its own."""

    home: Path

    def gpg(self, *words: str, data: bytes = b"") -> bytes:
        argv = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--yes", "--no-tty", *words]
        return subprocess.run(argv, input=data, capture_output=True, check=True).stdout

    def clear_sign(self, text: str) -> bytes:
        return self.gpg("--clearsign", "--digest-algo", "SHA256", data=text.encode())

    def export(self, path: Path) -> Path:
        path.write_bytes(self.gpg("--export"))
        return path


@dataclass
class LocalArchive:
    """An archive with one suite, one component and a handful of packages."""

    root: Path
    key: Key
    suite: str = "trixie"
    packages: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    algorithm: str = "sha256"

    def add(
        self, name: str, version: str = "1.0", *, depends: str = "", files: dict[str, bytes] | None = None
    ) -> Path:
        """Put a package into the pool; `publish` lists it."""
        tree = self.root / "build" / name
        shutil.rmtree(tree, ignore_errors=True)
        control = (
            f"Package: {name}\nVersion: {version}\nArchitecture: amd64\n"
            "Maintainer: nobody <nobody@example.org>\n"
            + (f"Depends: {depends}\n" if depends else "")
            + "Description: for tests\n"
        )
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(control)
        for path, content in (files or {f"usr/share/{name}/data": name.encode()}).items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(content)
            if path.startswith(("usr/bin", "usr/sbin", "usr/lib64")):
                (tree / path).chmod(0o4755)
        deb = self.root / f"pool/{name}_{version.rpartition(':')[2]}_amd64.deb"
        deb.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["dpkg-deb", "--build", "--root-owner-group", "-Znone", str(tree), str(deb)],
            check=True,
            capture_output=True,
        )
        data = deb.read_bytes()
        self.packages.append(
            f"{control}Filename: pool/{deb.name}\nSize: {len(data)}\n"
            f"{self.algorithm.upper()}: {hashlib.new(self.algorithm, data).hexdigest()}\n"
        )
        return deb

    def add_source(self, name: str, version: str, tarball: bytes) -> Path:
        """Put a source package of one tarball into the pool."""
        directory = self.root / f"pool/{name}"
        directory.mkdir(parents=True, exist_ok=True)
        upstream = version.rpartition("-")[0]
        lines = []
        for file, data in (
            (f"{name}_{upstream}.orig.tar.xz", tarball),
            (f"{name}_{version}.dsc", b"Format: 3.0\n"),
        ):
            (directory / file).write_bytes(data)
            lines.append(f" {hashlib.sha256(data).hexdigest()} {len(data)} {file}")
        self.sources.append(
            f"Package: {name}\nVersion: {version}\nBinary: {name}\nArchitecture: any\nFormat: 3.0 (quilt)\n"
            f"Directory: pool/{name}\nChecksums-Sha256:\n" + "\n".join(lines) + "\n"
        )
        return directory / f"{name}_{upstream}.orig.tar.xz"

    def publish(self, *, date: str = PUBLISHED, valid_until: str = VALID_UNTIL, signed: bool = True) -> None:
        """Write the indexes and the signed Release file."""
        dists = self.root / "dists" / self.suite
        lines = []
        for name, stanzas in (
            ("main/binary-amd64/Packages", self.packages),
            ("main/source/Sources", self.sources),
        ):
            data = "\n".join(stanzas).encode()
            (dists / name).parent.mkdir(parents=True, exist_ok=True)
            (dists / name).write_bytes(data)
            lines.append(f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}")
        text = (
            f"Origin: Debian\nSuite: stable\nCodename: {self.suite}\nVersion: 13.7\nDate: {date}\n"
            + (f"Valid-Until: {valid_until}\n" if valid_until else "")
            + "Architectures: amd64\nComponents: main\nAcquire-By-Hash: no\nSHA256:\n"
            + "\n".join(lines)
            + "\n"
        )
        for name in ("InRelease", "Release"):
            (dists / name).unlink(missing_ok=True)
        if signed:
            (dists / "InRelease").write_bytes(self.key.clear_sign(text))
        else:
            (dists / "Release").write_text(text)

    def archive(self, keyring: Path) -> Archive:
        return Archive("debian", "bookworm", Mirror(f"copy:{self.root}", keyring), None)


@pytest.fixture(scope="session")
def keys() -> Iterator[tuple[Key, Key]]:
    """Two signing keys: the archive's and a stranger's."""
    if not all(shutil.which(name) for name in ("gpg", "gpgconf", "apt-get", "dpkg-deb")):
        pytest.skip("gpg, apt-get or dpkg-deb is not on this machine")
    made = []
    # sockets of the agent need a short path
    with tempfile.TemporaryDirectory(prefix="gpg") as name:
        for index in range(2):
            key = Key(Path(name) / str(index))
            key.home.mkdir(mode=0o700)
            identity = f"Archive {index} <archive{index}@example.org>"
            key.gpg("--passphrase", "", "--quick-generate-key", identity, "ed25519", "sign", "never")
            made.append(key)
        try:
            yield made[0], made[1]
        finally:
            for key in made:
                subprocess.run(["gpgconf", "--homedir", str(key.home), "--kill", "all"], check=False)


@pytest.fixture
def local(tmp_path: Path, keys: tuple[Key, Key]) -> LocalArchive:
    """An archive with a program, its library, and a package whose dependency does not exist."""
    local = LocalArchive(tmp_path / "archive", keys[0])
    local.add("libthing", "2:1.5-1")
    local.add("thing", "1.0", depends="libthing (>= 2:1)", files={"usr/bin/thing": b"#!/bin/sh\n"})
    local.add("broken", "1.0", depends="nowhere")
    local.publish()
    return local


@pytest.fixture
def keyring(tmp_path: Path, keys: tuple[Key, Key]) -> Path:
    """The archive's own keyring."""
    return keys[0].export(tmp_path / "archive-keyring.gpg")
