from __future__ import annotations

import pytest

from tdxstack.toolbox.apt_errors import explain


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("E: You don't have enough free space in /x/archives/.", "no space left"),
        (
            "E: Failed to fetch x  Error writing to output file - write (28: No space left on device)",
            "no space left",
        ),
        ("W: GPG error: http://m sid InRelease: The following signatures ... NO_PUBKEY 0123", "signature"),
        ("W: OpenPGP signature verification failed: http://m sid InRelease: Sub-process sqv", "signature"),
        ("E: The repository 'http://m sid InRelease' is not signed.", "signature"),
        ("E: Failed to fetch x  Hash Sum mismatch", "signed index"),
        ("E: Failed to fetch x  File has unexpected size (1 != 2). Mirror sync in progress?", "signed index"),
        (
            "E: Failed to fetch x  Could not connect to m:80 (1.2.3.4), connection timed out",
            "could not be reached",
        ),
        ("E: Failed to fetch x  Temporary failure resolving 'm'", "could not be reached"),
        (
            "E: The repository 'http://m sid Release' does not have a Release file.",
            "does not carry the suite",
        ),
        ("E: Unable to locate package x", "no such package"),
        ("E: Version '9' for 'x' was not found", "no such package"),
        ("E: Package 'x' has no installation candidate", "no such package"),
        ("E: Failed to fetch http://m/x.deb  404  Not Found [IP: 1.2.3.4 80]", "not on the mirror"),
        ("E: Unable to correct problems, you have held broken packages.", "dependencies cannot be satisfied"),
        ("E: Could not get lock /x/lock. It is held by process 7 (apt-get)", "still at work"),
        ("E: something new", "apt failed: something new"),
        ("nothing of note", "it gave no reason"),
    ],
)
def test_messages_get_a_meaning_and_a_hint(line: str, meaning: str) -> None:
    error = explain(["Reading package lists...", line], "/x/apt.log")
    assert meaning in error.message
    assert "/x/apt.log" in error.hint


def test_endless_messages_are_cut() -> None:
    assert len(explain(["E: " + "x" * 100_000], "log").message) < 700
