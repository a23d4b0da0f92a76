"""A private apt: the archive's signed package lists and packages, apart from those of the host.

The host's own `apt-get` does the work, with lists, cache and (empty) package status of its own, so that the
host's packages and sources are neither seen nor changed and no privilege is needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import unquote

from tdxstack import files
from tdxstack.errors import CommandError, UnavailableError, UsageError
from tdxstack.run import Report, failure, run, silent, stream
from tdxstack.toolbox.apt_conf import apt_conf
from tdxstack.toolbox.apt_errors import explain
from tdxstack.toolbox.archive import Archive
from tdxstack.toolbox.release import Release

_UPDATE_SECONDS = 30 * 60.0
_DOWNLOAD_SECONDS = 60 * 60.0
_QUERY_SECONDS = 120.0
_UNPACK_SECONDS = 300.0

_URI_LINE = re.compile(
    r"'[^']+' (?P<name>\S+) (?P<size>\d+) (?:(?P<algorithm>SHA\d+):(?P<digest>[0-9a-f]+))?"
)
_ALGORITHMS = ("SHA256", "SHA512")
"""The hashes that archives list of each file: Debian's the first, Ubuntu's newest only the second."""

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]*(?::[a-z0-9]+)?(?:[=/][A-Za-z0-9.+:~_-]+)?")


@dataclass(frozen=True, slots=True)
class Deb:
    """A binary package file that apt's chain of signatures vouches for."""

    name: str
    version: str
    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source package that apt's chain of signatures vouches for."""

    name: str
    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class _Remote:
    """A file that apt would download: its name in the cache, its size in bytes, and its hash."""

    name: str
    size: int
    algorithm: str
    digest: str

    def vouches_for(self, path: Path) -> bool:
        """Whether `path` is that file, whole."""
        whole = path.is_file() and path.stat().st_size == self.size
        return whole and _digest(path, self.algorithm) == self.digest


class AptRoot:
    """Package lists and packages of some suites of an archive, kept below `directory`.

    `now` is the time against which the age of Release files is judged. Signatures are always required; a
    Release file past its date is used and reported, or refused with `require_fresh`. `source_packages` makes
    `fetch_source` possible, at the price of larger lists. Use from several processes at once is safe.
    """

    def __init__(
        self,
        directory: Path,
        archive: Archive,
        suites: Sequence[str],
        *,
        now: datetime,
        require_fresh: bool = False,
        source_packages: bool = False,
    ) -> None:
        self.directory = directory.absolute()
        self.archive = archive
        self.suites = tuple(suites)
        self._now = now
        self._require_fresh = require_fresh
        self._source_packages = source_packages
        self._config = self.directory / "apt.conf"
        self._log = self.directory / "apt.log"
        self._archives = self.directory / "cache/archives"
        if '"' in str(self.directory) or not self.suites:
            raise UsageError(f"no apt root can be made in {str(directory)!r} of suites {', '.join(suites)!r}")

    def update(self, report: Report = silent, *, max_age: timedelta = timedelta(0)) -> list[Release]:
        """Download the package lists, unless those here were downloaded less than `max_age` ago.

        Returns what the Release files say, one for each suite. Raises `UnavailableError` where the archive
        cannot be reached, is not signed by its keyring, or (`require_fresh`) is past its date; the lists that
        were here are kept then.
        """
        with self._locked():
            if not self._is_recent(max_age) or (self._require_fresh and self._are_stale()):
                report("package lists", None)
                self._apt_get(
                    ["update", "-o", "APT::Update::Error-Mode=any"], report, "package lists", _UPDATE_SECONDS
                )
                files.write_atomically(self.directory / "updated", self._sources().encode())
            return self.releases()

    def releases(self) -> list[Release]:
        """What the Release files that were downloaded last say, one for each suite; without network.

        Raises `UnavailableError` where there are none, or (`require_fresh`) where one is past its date.
        """
        found = self._releases()
        for release in found:
            if self._require_fresh and release.warning:
                raise UnavailableError(
                    release.warning,
                    hint="use another --mirror, or leave out --require-fresh to accept its age",
                )
        return found

    def fetch(
        self, packages: Sequence[str], *, with_dependencies: bool = True, report: Report = silent
    ) -> list[Deb]:
        """Download packages (`name`, `name=version` or `name/suite`), with all that they depend on.

        Nothing counts as installed, so that dependencies are complete, except for what is essential to every
        system and therefore named by none. Returns them in order of their names. Files that are already here
        are checked, not downloaded again. Raises `UnavailableError`; `UsageError` for what is no package
        name.
        """
        for package in packages:
            if not _PACKAGE.fullmatch(package):
                raise UsageError(
                    f"{package!r} is no package name", hint="use name, name=version or name/suite"
                )
        if with_dependencies:
            command = ["install", "--yes", "--no-install-recommends", "--download-only"]
        else:
            command = ["download"]
        with self._locked():
            remotes = self._uris([*command, *packages])
            paths = self._download([*command, *packages], remotes, self._archives, report)
        debs = [_deb(remote, path) for remote, path in zip(remotes, paths, strict=True)]
        return sorted(debs, key=lambda deb: deb.name)

    def fetch_source(self, package: str, *, report: Report = silent) -> list[SourceFile]:
        """Download the upstream tarballs of a source package, without what the distribution adds to them.

        Raises as `fetch` does.
        """
        if not self._source_packages:
            raise UsageError(f"source package {package} was asked of an apt root without source packages")
        if not _PACKAGE.fullmatch(package):
            raise UsageError(f"{package!r} is no package name", hint="use name, name=version or name/suite")
        command = ["source", "--download-only", "--only-source", "--tar-only", package]
        with self._locked():
            remotes = self._uris(command)
            paths = self._download(command, remotes, self.directory / "cache/sources", report)
        return [
            SourceFile(remote.name, path, _digest(path, "sha256"))
            for remote, path in zip(remotes, paths, strict=True)
        ]

    def fetch_file(self, path: str, sha256: str, destination: Path, *, report: Report = silent) -> None:
        """Download a file of the archive by its `path` below the mirror's root, and check its hash.

        For files that no list names any more. Raises `UnavailableError`.
        """
        with self._locked():
            remote = f"{self.archive.main.uri}/{path.lstrip('/')}"
            partial = destination.with_name(f".{destination.name}.part")
            lines: list[str] = []
            report(destination.name, None)
            argv = ["/usr/lib/apt/apt-helper", "download-file", remote, str(partial), f"SHA256:{sha256}"]
            self._stream(argv, report, destination.name, _DOWNLOAD_SECONDS, lines)
            if _digest(partial, "sha256") != sha256:
                partial.unlink()
                raise UnavailableError(
                    f"{remote} has not the expected SHA-256 {sha256}", hint="use another --mirror"
                )
            partial.replace(destination)

    def _releases(self) -> list[Release]:
        return [self._release(suite) for suite in self.suites]

    def _are_stale(self) -> bool:
        return any(release.warning for release in self._releases())

    def _release(self, suite: str) -> Release:
        lists = self.directory / "state/lists"
        stem = f"_dists_{suite.replace('/', '_')}_"
        for name in ("InRelease", "Release"):
            for path in sorted(lists.glob(f"*{stem}{name}")):
                return Release.parse(suite, path.read_text(errors="replace"), self._now)
        raise UnavailableError(f"there are no package lists of suite {suite}", hint="update them first")

    def _is_recent(self, max_age: timedelta) -> bool:
        stamp = self.directory / "updated"
        with contextlib.suppress(FileNotFoundError):
            age = self._now.timestamp() - stamp.stat().st_mtime
            return abs(age) < max_age.total_seconds() and stamp.read_text() == self._sources()
        return False

    def _uris(self, command: Sequence[str]) -> list[_Remote]:
        """What apt would download for `command` if the cache were empty."""
        empty = self.directory / "cache/none"
        (empty / "partial").mkdir(parents=True, exist_ok=True)
        found: dict[str, _Remote] = {}
        wanted: list[str] = []
        for algorithm in _ALGORITHMS:
            options = ["-qq", "--print-uris", f"-oAcquire::ForceHash={algorithm}"]
            argv = [*self._apt(), "apt-get", *options, f"-oDir::Cache::archives={empty}", *command]
            done = run(argv, cwd=empty, timeout=_QUERY_SECONDS, check=False)
            if done.returncode:
                self._log.write_bytes(done.stdout + done.stderr)
                lines = (done.stdout + done.stderr).decode(errors="replace").splitlines()
                raise explain(lines, str(self._log))
            matches = list(_URI_LINE.finditer(done.stdout.decode(errors="replace")))
            wanted = [match["name"] for match in matches]
            for name, size, kind, digest in (
                match.group("name", "size", "algorithm", "digest") for match in matches
            ):
                if digest:
                    found.setdefault(name, _Remote(name, int(size), kind.lower(), digest))
            if wanted and set(wanted) <= set(found):
                return [found[name] for name in wanted]
        unknown = [name for name in wanted if name not in found] or command[-1:]
        raise UnavailableError(
            f"the archive lists no file, or none with a good hash, for {', '.join(unknown)}",
            hint="name the package itself, not one that it provides; or use another --mirror",
        )

    def _download(
        self, command: Sequence[str], remotes: Sequence[_Remote], store: Path, report: Report
    ) -> list[Path]:
        """Have apt download what is not whole in `store` yet; return the paths of `remotes`, each checked."""
        (store / "partial").mkdir(parents=True, exist_ok=True)
        missing = [remote for remote in remotes if not remote.vouches_for(store / remote.name)]
        if missing:
            _need_space(store, sum(remote.size for remote in missing))
            for remote in missing:
                (store / remote.name).unlink(missing_ok=True)
            what = f"{len(missing)} files, {sum(remote.size for remote in missing) / 1e6:.0f} MB"
            report(f"downloading {what}", 0.0)
            # install fills the cache; the others write into their working directory, and resume what is there
            self._apt_get(command, report, f"downloading {what}", _DOWNLOAD_SECONDS, cwd=store / "partial")
            for remote in missing:
                fetched = store / "partial" / remote.name
                if remote.vouches_for(fetched):
                    fetched.replace(store / remote.name)
        for remote in missing:
            if not remote.vouches_for(store / remote.name):
                raise UnavailableError(f"apt did not deliver {remote.name}", hint=f"see {self._log}")
        return [store / remote.name for remote in remotes]

    def _apt_get(
        self, command: Sequence[str], report: Report, what: str, timeout: float, *, cwd: Path | None = None
    ) -> None:
        argv = ["apt-get", "-q", "-o", "APT::Status-Fd=1", *command]
        self._stream(argv, report, what, timeout, [], cwd=cwd)

    def _stream(
        self,
        argv: Sequence[str],
        report: Report,
        what: str,
        timeout: float,
        lines: list[str],
        *,
        cwd: Path | None = None,
    ) -> None:
        def on_line(line: str) -> None:
            if line.startswith("dlstatus:"):
                with contextlib.suppress(ValueError, IndexError):
                    report(what, float(line.split(":")[2]) / 100)
            else:
                lines.append(line)

        self._log.unlink(missing_ok=True)
        try:
            stream(
                [*self._apt(), *argv],
                log=self._log,
                on_line=on_line,
                cwd=cwd or self.directory,
                timeout=timeout,
            )
        except CommandError as error:
            if not any(line.startswith("E: ") for line in lines):
                raise
            raise explain(lines, str(self._log)) from error

    def _apt(self) -> list[str]:
        return ["env", f"APT_CONFIG={self._config}", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        files.make_private(self.directory)
        with files.lock(self.directory / "lock"):
            self._configure()
            yield

    def _configure(self) -> None:
        """Lay out the directory as apt wants it. apt itself repairs what an interrupted run left in it."""
        for name in ("state/lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        for name in ("etc/trusted.gpg.d", "etc/sources.list.d"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        (self.directory / "state/status").touch()
        files.write_atomically(self.directory / "etc/archive.sources", self._sources().encode())
        files.write_atomically(self._config, apt_conf(self.directory).encode(), mode=0o600)

    def _sources(self) -> str:
        return self.archive.sources(self.suites, source_packages=self._source_packages)


def extract(debs: Sequence[Deb], destination: Path, *, report: Report = silent) -> Path:
    """Unpack packages into the new directory `destination`, which appears only when it is whole.

    Maintainer scripts do not run, and set-user-id bits are dropped. `/bin`, `/lib`, `/sbin` and `/lib64` are
    links into `/usr`, as on an installed system. A `destination` that is there already is left as it is.
    Raises `CommandError` where a package cannot be unpacked.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    with files.lock(destination.with_name(f".{destination.name}.lock")):
        if destination.is_dir():
            return destination
        for left in destination.parent.glob(f".{destination.name}.*.part"):
            shutil.rmtree(left)
        prefix = f".{destination.name}."
        with tempfile.TemporaryDirectory(prefix=prefix, suffix=".part", dir=destination.parent) as name:
            root = Path(name) / "root"
            for directory in ("bin", "lib", "lib64", "sbin"):
                (root / "usr" / directory).mkdir(parents=True)
                (root / directory).symlink_to(f"usr/{directory}")
            for index, deb in enumerate(debs):
                report(f"unpacking {deb.name}", index / len(debs))
                _unpack(deb.path, root)
            _drop_special_modes(root)
            root.rename(destination)
    return destination


def _unpack(deb: Path, root: Path) -> None:
    argv = ["dpkg-deb", "--extract", str(deb), str(root)]
    done = run(argv, timeout=_UNPACK_SECONDS, check=False)
    if done.returncode:
        text = done.stderr.decode(errors="replace")
        if "No space left" in text:
            raise explain(text.splitlines(), str(deb))
        raise failure(argv, done.returncode, text)


def _drop_special_modes(root: Path) -> None:
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
                path.chmod(stat.S_IMODE(mode) & 0o777)


def _need_space(directory: Path, size: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < size:
        raise UnavailableError(
            f"{directory} has {free / 1e6:.0f} MB free and {size / 1e6:.0f} MB are to be downloaded",
            hint="free space there, for instance with `tdx cache prune`",
        )


def _deb(remote: _Remote, path: Path) -> Deb:
    name, version, _ = remote.name.split("_", 2)
    return Deb(name, unquote(version), path, _digest(path, "sha256"))


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
