"""Boot of an emulated TD, against the same guest in the same QEMU as an ordinary machine.

From the start of QEMU until SSH answers, with firmware, image, CPUs and memory alike.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tdxstack.cli.edge import surroundings
from tdxstack.files import Directories
from tdxstack.machine.placement import EmulatedSilicon, Placement
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.spec_parts import Kind
from tdxstack.platform import Platform
from tdxstack.quoting.pki import open_pki
from tdxstack.workflows.machines import Machines, Plan
from tdxstack.workflows.workshop import Surroundings, Workshop

pytestmark = [pytest.mark.e2e, pytest.mark.benchmark(group="boot to SSH")]

ROUNDS = 3


@pytest.fixture
def where() -> Iterator[Surroundings]:
    """The user's cache; data and sockets of this test's own, below a short path."""
    with tempfile.TemporaryDirectory(prefix="tdx-bench-") as root:
        yield surroundings_below(Path(root))


def surroundings_below(root: Path) -> Surroundings:
    real = surroundings()
    places = Directories(real.directories.cache, root / "data/tdxstack", root / "run/tdxstack")
    return replace(real, directories=places)


@pytest.mark.parametrize("kind", ["td", "ordinary"])
def test_boot(kind: str, where: Surroundings, benchmark: Any) -> None:
    for part in ("emulator", "image"):  # the command also installs what they need of the host
        subprocess.run([sys.executable, "-m", "tdxstack", part, "build", "--yes"], check=True)
    workshop = Workshop(where)
    emulator, firmware, image = workshop.emulator(), workshop.firmware(), workshop.image()
    pki = open_pki(where.directories.data / "pki", where.clock())
    spec = MachineSpec(name=f"bench-{kind}")
    placement = Placement(
        platform=Platform.EMULATED,
        qemu=tuple(emulator.argv_prefix),
        firmware=firmware.path,
        authorized_key="ssh-ed25519 AAAA bench",
        silicon=EmulatedSilicon(
            pki.report_mac_key_file, pki.platform.mrseam, pki.platform.cpusvn, pki.platform.tee_tcb_svn
        ),
    )
    if kind == "ordinary":
        spec, placement = spec.changed(kind=Kind.EFI), replace(placement, silicon=None)

    machines = Machines(where, workshop=workshop)
    vm = machines.machine(spec.name)

    def prepare() -> None:
        vm.remove()
        machines.write_down(Plan(spec, placement, {0: image}))

    def boot() -> None:
        vm.start()
        vm.wait_for_ssh()

    try:
        benchmark.pedantic(boot, setup=prepare, rounds=ROUNDS)
    finally:
        vm.remove()
