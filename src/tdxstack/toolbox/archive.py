"""The archive of the host's distribution, as the host's own apt sources name it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from tdxstack.errors import MalformedError, UnavailableError, UsageError

RELEASES = {"debian": "trixie", "ubuntu": "resolute"}
"""The stable release of each distribution that tools and guests are made of, whichever the host runs."""

_UNRELEASED = ("forky", "testing", "sid", "unstable")
"""Debian's suites that get security updates with all others."""

_COMPONENTS = {"debian": ("main",), "ubuntu": ("main", "universe")}
_KEYRINGS = {
    "debian": "usr/share/keyrings/debian-archive-keyring.gpg",
    "ubuntu": "usr/share/keyrings/ubuntu-archive-keyring.gpg",
}
_SUITE_ALIASES = {
    "debian": ("stable", "oldstable", "oldoldstable", "testing", "unstable", "sid"),
    "ubuntu": ("devel",),
}
_MIRROR_LIST = "mirror+file:"
_YES = ("yes", "true", "with", "on", "enable", "1")


@dataclass(frozen=True, slots=True)
class Entry:
    """One `deb` entry of apt's sources (sources.list(5)): addresses times suites."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str


@dataclass(frozen=True, slots=True)
class Mirror:
    """The root of an archive and the keyring that its Release files are checked with."""

    uri: str
    keyring: Path


@dataclass(frozen=True, slots=True)
class Archive:
    """A distribution's archive: its main mirror, and the security mirror where there is one."""

    distribution: str
    codename: str
    main: Mirror
    security: Mirror | None
    release: str = ""
    """What tools and guests are made of; the one of `RELEASES` if empty."""

    @property
    def release_name(self) -> str:
        """The codename (or `testing`) of that release."""
        return self.release or RELEASES[self.distribution]

    @property
    def components(self) -> tuple[str, ...]:
        """The components that packages are taken from."""
        return _COMPONENTS[self.distribution]

    @property
    def stable(self) -> tuple[str, ...]:
        """Suites of the release that tools and guests are made of; security where a mirror has it."""
        release = self.release_name
        if self.distribution == "debian":
            secured = self.security is not None and release not in _UNRELEASED
            return (release, *([f"{release}-security"] if secured else []))
        return (release, f"{release}-updates", f"{release}-security")

    @property
    def backports(self) -> tuple[str, ...]:
        """Suites with newer versions of some packages, built for the stable release."""
        return (f"{self.release_name}-backports",)

    @property
    def unstable(self) -> tuple[str, ...]:
        """The suite of the release under development."""
        return ("sid",) if self.distribution == "debian" else ("devel",)

    def mirror(self, suite: str) -> Mirror:
        """The mirror that carries `suite`. Raises `UnavailableError` where none is known."""
        if not suite.endswith("-security"):
            return self.main
        if self.security is not None:
            return self.security
        if self.distribution == "ubuntu":
            return self.main
        raise UnavailableError(
            f"no mirror of suite {suite} is known",
            hint="configure the security archive in the host's apt sources",
        )

    def sources(self, suites: tuple[str, ...], *, source_packages: bool = False) -> str:
        """A deb822 sources file (sources.list(5)) for `suites`: amd64 binaries, source packages if asked."""
        stanzas = []
        for suite in suites:
            mirror = self.mirror(suite)
            stanzas.append(
                f"Types: deb{' deb-src' if source_packages else ''}\n"
                f"URIs: {mirror.uri}\n"
                f"Suites: {suite}\n"
                f"Components: {' '.join(self.components)}\n"
                "Architectures: amd64\n"
                f"Signed-By: {mirror.keyring}\n"
            )
        return "\n".join(stanzas)


def host_archive(root: Path, *, mirror: str = "") -> Archive:
    """The archive that the host below `root` (usually `/`) is configured with.

    `mirror` replaces every configured address by one; suites that it does not carry, such as Debian's
    security suite, are then not used. Raises `UnavailableError` where the distribution is neither Debian nor
    Ubuntu, has no usable entry, or its keyring is missing; `UsageError` where `mirror` is no address.
    """
    distribution, codename = _release(root)
    if mirror:
        address = _address(mirror)
        return Archive(distribution, codename, Mirror(_tidy(address), _keyring(root, distribution, "")), None)
    entries = list(configured(root))
    main = _best(root, entries, distribution, (codename, *_SUITE_ALIASES[distribution]))
    if main is None:
        raise UnavailableError(
            f"the host's apt sources name no archive that carries {codename}",
            hint="name one with --mirror URI",
        )
    security = _best(
        root, entries, distribution, tuple(f"{suite}-security" for suite in (codename, "stable"))
    )
    return Archive(distribution, codename, main, security)


def archive_of(root: Path, distribution: str, release: str, *, mirror: str = "") -> Archive:
    """The archive of `release` of a distribution, by default the host's and the one of `RELEASES`.

    Another distribution than the host's needs a `mirror`, and its keyring on the host. Raises as
    `host_archive` does.
    """
    if distribution in ("", os_release(root).get("ID")):
        return replace(host_archive(root, mirror=mirror), release=release)
    if not mirror:
        raise UsageError(
            f"the host's apt sources name no archive of {distribution}", hint="name one with --mirror URI"
        )
    return Archive(
        distribution,
        release or RELEASES[distribution],
        Mirror(_tidy(_address(mirror)), _keyring(root, distribution, "")),
        None,
        release,
    )


def configured(root: Path) -> Iterator[Entry]:
    """The enabled `deb` entries of the host's sources; those that make no sense are left out."""
    directory = root / "etc/apt"
    paths = [directory / "sources.list"]
    if (directory / "sources.list.d").is_dir():
        paths += sorted((directory / "sources.list.d").iterdir())
    for path in paths:
        if path.suffix not in (".list", ".sources") or not path.is_file():
            continue
        try:
            text = path.read_text(errors="replace")
        except PermissionError:
            continue
        yield from one_line_entries(text) if path.suffix == ".list" else deb822_entries(text)


def one_line_entries(text: str) -> Iterator[Entry]:
    """The `deb` entries of a one-line-style sources file. A line that is no entry is skipped."""
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words or words[0] != "deb":
            continue
        options: dict[str, str] = {}
        rest = words[1:]
        if rest and rest[0].startswith("["):
            end = next((index for index, word in enumerate(rest) if word.endswith("]")), None)
            if end is None:
                continue
            options = dict(_option(word) for word in " ".join(rest[: end + 1]).strip("[]").split())
            rest = rest[end + 1 :]
        if len(rest) >= 2:
            yield Entry((rest[0],), (rest[1],), tuple(rest[2:]), options.get("signed-by", ""))


def deb822_entries(text: str) -> Iterator[Entry]:
    """The enabled `deb` entries of a deb822-style sources file. Incomplete stanzas are skipped."""
    for fields in stanzas(text):
        if fields.get("enabled", "yes").lower() not in _YES or "deb" not in fields.get("types", "").split():
            continue
        uris, suites = fields.get("uris", "").split(), fields.get("suites", "").split()
        if uris and suites:
            components = tuple(fields.get("components", "").split())
            yield Entry(tuple(uris), tuple(suites), components, fields.get("signed-by", ""))


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The stanzas of a deb822 text as dictionaries of lower-case field names; comment lines are dropped."""
    fields: dict[str, list[str]] = {}
    name = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield {key: "\n".join(lines).strip() for key, lines in fields.items()}
            fields, name = {}, ""
        elif line[0] in " \t":
            if name:
                fields[name].append(line.strip())
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = [value.strip()]


def os_release(root: Path) -> Mapping[str, str]:
    """The fields of os-release(5), unquoted; empty where there is no such file."""
    for name in ("etc/os-release", "usr/lib/os-release"):
        try:
            text = (root / name).read_text(errors="replace")
        except FileNotFoundError:
            continue
        pairs = (
            line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#")
        )
        return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}
    return {}


def _release(root: Path) -> tuple[str, str]:
    fields = os_release(root)
    distribution, codename = fields.get("ID", "unknown"), fields.get("VERSION_CODENAME", "")
    if distribution not in _COMPONENTS:
        raise UnavailableError(
            f"distribution {distribution!r} is not supported",
            hint="use Debian 12 or newer, or Ubuntu 24.04 or newer",
        )
    if not codename:
        raise UnavailableError("os-release has no VERSION_CODENAME", hint="repair /etc/os-release")
    return distribution, codename


def _option(word: str) -> tuple[str, str]:
    key, _, value = word.partition("=")
    return key.lower(), value


def _best(root: Path, entries: list[Entry], distribution: str, suites: tuple[str, ...]) -> Mirror | None:
    """The mirror of the entry that is most surely the distribution's own, with one of `suites`."""
    ranked: list[tuple[int, int, Mirror]] = []
    for entry in entries:
        if set(entry.suites).isdisjoint(suites) or "main" not in entry.components:
            continue
        uri = _resolve(root, entry.uris[0])
        rank = _rank(entry, uri, distribution)
        if uri and rank is not None:
            ranked.append(
                (rank, len(ranked), Mirror(_tidy(uri), _keyring(root, distribution, entry.signed_by)))
            )
    return min(ranked)[2] if ranked else None


def _rank(entry: Entry, uri: str, distribution: str) -> int | None:
    """How surely `entry` is the distribution's own archive: 0 is best, None is a third party's.

    Third parties use the distribution's suite names too, but bring their own key.
    """
    if f"{distribution}-archive" in entry.signed_by:
        return 0
    named = distribution in urlsplit(uri).path
    if not entry.signed_by:
        return 1 if named else 2
    last = urlsplit(uri).path.rstrip("/").rpartition("/")[2]
    return 3 if last in (distribution, f"{distribution}-security") else None


def _resolve(root: Path, uri: str) -> str:
    """The first mirror of a list (apt-transport-mirror(1)), or the address itself; "" if it is no use."""
    if not uri.startswith(_MIRROR_LIST):
        return uri if urlsplit(uri).scheme in ("http", "https", "file", "copy") else ""
    path = root / uri.removeprefix(_MIRROR_LIST).lstrip("/")
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.split()[0] for line in lines if line.strip() and not line.startswith("#")), "")


def _keyring(root: Path, distribution: str, signed_by: str) -> Path:
    """The keyring file that `signed_by` names, else the distribution's own."""
    default = root / _KEYRINGS[distribution]
    named = root / signed_by.split()[0].split(",")[0].lstrip("/") if signed_by.startswith("/") else default
    path = named if named.is_file() else default
    if not path.is_file():
        raise UnavailableError(
            f"keyring {path} is missing",
            hint=f"install the package that has the keys of {distribution}'s archive",
        )
    return path


def _address(mirror: str) -> str:
    if urlsplit(mirror).scheme not in ("http", "https", "file", "copy"):
        raise UsageError(f"mirror {mirror!r} is no address", hint="use an http, https or file URI")
    return mirror


def _tidy(uri: str) -> str:
    if any(character.isspace() for character in uri):
        raise MalformedError(f"archive address {uri!r} has a blank in it", hint="correct the apt sources")
    # apt would use what is in a file: archive in place, unchecked; of copy: it makes checked copies
    scheme, colon, rest = uri.partition(":")
    return ("copy" if scheme == "file" else scheme) + colon + rest.rstrip("/")
