"""One series serves Debian stable's QEMU, which every other test boots, and the newest pinned release."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tdxstack.machine.spec_parts import DirectKernel
from tdxstack.machine.stopped import Launch
from tdxstack.machine.store import MachineFiles
from tdxstack.measurement.comparison.compare import compare
from tdxstack.measurement.comparison.reading import read_side
from tdxstack.measurement.comparison.side import Side
from tdxstack.prediction.boot import predict
from tdxstack.prediction.hardware import hardware
from tdxstack.testing.runner import Recording, Tdx
from tdxstack.workflows.predict import PredictResult
from tests.conformance import vectors
from tests.e2e.test_predict import machine_argv

PINNED = "10.2.2"
FIRMWARE = "virtee+tdx/tests/data/OVMF.inteltdx.fd"


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


@pytest.mark.skipif(not vectors.present(), reason="no public vectors (TDXSTACK_VECTORS names their folder)")
def test_only_the_older_one_writes_into_a_kernel(guest: DirectKernel, tdx: Tdx, tmp_path: Path) -> None:
    """Firmware of 2024 takes what QEMU hands it. All else is the same. Both are built above."""
    (tmp_path / "firmware.fd").write_bytes(vectors.read(FIRMWARE))
    argv = machine_argv(MachineFiles(tmp_path, tmp_path), tmp_path / "firmware.fd", guest)
    built = {one["version"]: one["binary"] for one in tdx.json("emulator", "status")["emulators"]}
    used = argv[0]

    def side(binary: str) -> Side:
        root, other = (str(Path(path).parents[1]) for path in (used, binary))
        launch = Launch.parse([word.replace(root, other) for word in argv])
        machine = hardware(launch, tmp_path / "cache", confidential=True)
        prediction = predict(launch, launch.firmware.read_bytes(), machine, None, release="202405")
        document = PredictResult(prediction, True, launch.firmware, launch, None).to_json()
        return read_side(binary, json.dumps(document).encode())

    found = compare(side(used), side(built[PINNED]))
    assert [cause.id for cause in found.causes] == ["kernel-header"]
    assert found.unexplained_differences == ()
