"""What `tdx vm start` adds to QEMU's own start, and twenty machines at once against one after the other.

The machines have a firmware and nothing that it could boot, so that little else is measured.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tdxstack.machine.control import StopMode
from tdxstack.machine.machine import Machine
from tdxstack.machine.spec import MIN_MEMORY_MIB, MachineSpec
from tdxstack.machine.spec_parts import Kind
from tdxstack.platform import Platform
from tdxstack.qemu import monitor
from tdxstack.testing.runner import Tdx
from tdxstack.workflows.machines import Machines
from tests.bench.test_boot import surroundings_below

pytestmark = pytest.mark.e2e

SPEC = MachineSpec(
    kind=Kind.LEGACY, platform=Platform.EMULATED, vcpus=1, memory=MIN_MEMORY_MIB, diskless=True, nics=()
)
MANY = 20
ROUNDS = 5


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    subprocess.run([sys.executable, "-m", "tdxstack", "emulator", "build", "--yes"], check=True)
    with tempfile.TemporaryDirectory(prefix="tdx-bench-") as root:
        yield Machines(surroundings_below(Path(root)))


@pytest.fixture
def vm(machines: Machines) -> Iterator[Machine]:
    vm = machines.create(SPEC.changed(name="one"))
    yield vm
    vm.remove()


@pytest.mark.benchmark(group="start of a machine")
def test_tdx_vm_start(vm: Machine, benchmark: Any) -> None:
    environment = Tdx(vm.files.directory.parents[3]).environment
    words = [sys.executable, "-m", "tdxstack", "vm", "start", "one"]

    def start() -> None:
        subprocess.run(words, env=environment, check=True, capture_output=True)

    benchmark.pedantic(start, setup=lambda: vm.stop(StopMode.FORCE), rounds=ROUNDS)


@pytest.mark.benchmark(group="start of a machine")
def test_limit_qemu_until_its_monitor_answers(vm: Machine, benchmark: Any) -> None:
    vm.start()
    vm.stop(StopMode.FORCE)
    running: list[subprocess.Popen[bytes]] = []

    def end() -> None:
        for process in running:
            process.kill()
            process.wait()
        running.clear()
        vm.files.monitor.unlink(missing_ok=True)

    def start() -> None:
        running.append(subprocess.Popen(vm.record.argv, stderr=subprocess.DEVNULL))
        asyncio.run(answers())

    async def answers() -> None:
        while not vm.files.monitor.exists():
            await asyncio.sleep(0.001)
        async with monitor.connect(vm.files.monitor):
            pass

    try:
        benchmark.pedantic(start, setup=end, rounds=ROUNDS)
    finally:
        end()


async def _all_at_once(machines: Machines) -> None:
    async def one() -> None:
        async with machines.launch(SPEC) as vm:
            assert await vm.state.aio() == "running"

    await asyncio.gather(*(one() for _ in range(MANY)))


async def _one_by_one(machines: Machines) -> None:
    for _ in range(MANY):
        async with machines.launch(SPEC) as vm:
            assert await vm.state.aio() == "running"


@pytest.mark.benchmark(group=f"{MANY} machines, launched and gone")
def test_many_at_once(machines: Machines, benchmark: Any) -> None:
    benchmark.pedantic(lambda: asyncio.run(_all_at_once(machines)), rounds=2)
    assert machines.names() == []


@pytest.mark.benchmark(group=f"{MANY} machines, launched and gone")
def test_limit_one_after_the_other(machines: Machines, benchmark: Any) -> None:
    benchmark.pedantic(lambda: asyncio.run(_one_by_one(machines)), rounds=2)
