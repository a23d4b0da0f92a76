"""What apt's messages mean for somebody who does not know apt."""

from __future__ import annotations

from collections.abc import Sequence

from tdxstack.errors import UnavailableError

_MEANINGS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("No space left on device", "enough free space"),
        "there is no space left for packages",
        "free space below the cache directory, for instance with `tdx cache prune`",
    ),
    (
        (
            "NO_PUBKEY",
            "is not signed",
            "BADSIG",
            "invalid signature",
            "EXPKEYSIG",
            "not valid (no valid",
            "NODATA",
            "signature verification",
            "GPG error",
        ),
        "the archive's signature was not accepted",
        "update the host's package debian-archive-keyring or ubuntu-keyring, or use another --mirror",
    ),
    (
        ("Hash Sum mismatch", "unexpected size", "Hashes of received file"),
        "a file of the archive is not the one that its signed index names",
        "the mirror may be in the middle of an update: try again later, or use another --mirror",
    ),
    (
        (
            "Could not resolve",
            "Temporary failure resolving",
            "Could not connect",
            "Unable to connect",
            "Connection failed",
            "Connection timed out",
            "connection timed out",
            "Connection refused",
            "Network is unreachable",
            "Certificate verification failed",
        ),
        "the archive could not be reached",
        "check the network and the proxy settings of the host's apt, or name another archive with --mirror",
    ),
    (
        ("Could not get lock",),
        "an earlier apt is still at work in the same directory",
        "wait for it to end, then try again",
    ),
    (
        ("does not have a Release file", "no longer has a Release file"),
        "the mirror does not carry the suite",
        "name a full mirror of the distribution with --mirror",
    ),
    (
        (
            "Unable to locate package",
            "Unable to find a source package",
            "has no installation candidate",
            "was not found",
            "Can't find a source",
            "has no candidate",
        ),
        "the archive has no such package",
        "check its name, version and suite",
    ),
    (
        ("unmet dependencies", "held broken packages", "Unable to correct problems"),
        "dependencies cannot be satisfied from the chosen suites",
        "the mirror may be in the middle of an update: try again later, or use another --mirror",
    ),
    (
        ("404  Not Found", "404 Not Found", "File not found"),
        "a file that the archive's index names is not on the mirror",
        "the index may be old: try again later, or use another --mirror",
    ),
)


def explain(lines: Sequence[str], log: str) -> UnavailableError:
    """The error for an apt that failed after printing `lines`; `log` is where all of its output is."""
    complaints = [line[3:] for line in lines if line.startswith(("E: ", "W: "))]
    text = "\n".join(lines)
    for signs, meaning, hint in _MEANINGS:
        if any(sign in text for sign in signs):
            found = [line for line in complaints if any(sign in line for sign in signs)] or complaints
            return UnavailableError(f"{meaning}: {_shorten(found)}", hint=f"{hint} (see {log})")
    return UnavailableError(f"apt failed: {_shorten(complaints)}", hint=f"see {log}")


def _shorten(complaints: Sequence[str]) -> str:
    return " ".join(complaints[:3])[:600] or "it gave no reason"
