"""One series serves Debian stable's QEMU, which every other test boots, and the newest pinned release."""

from __future__ import annotations

from pathlib import Path

from tdxstack.testing.runner import Recording, Tdx

PINNED = "10.2.2"


def test_pinned_release_is_built_and_boots(tdx: Tdx, recording: Recording, emulator_binary: Path) -> None:
    built = tdx.json("emulator", "build", "--version", PINNED, "--yes")
    assert built["version"] == PINNED
    try:
        document = tdx.json("up", "--name", "pinned", "--platform", "emulated", "--ve", "--sept", "on")
        assert document["verdict"] == "accepted"
        assert document["components"]["qemu"] == f"{PINNED} (emulating)"
        # The firmware alone decides about MRTD, not the QEMU that adds its pages.
        assert document["registers"]["mrtd"] == recording.document["registers"]["mrtd"]
        tdx.run("down", "pinned")
        again = tdx.json("emulator", "build", "--version", PINNED)
        assert again["built"] == built["built"], "a second run builds nothing"
    finally:
        default = tdx.json("emulator", "build", "--yes")
    assert Path(default["binary"]) == emulator_binary
