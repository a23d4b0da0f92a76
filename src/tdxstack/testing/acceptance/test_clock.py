"""The time stamp counter that a TD can trust."""

from __future__ import annotations

import struct

import pytest

from tdxstack.machine.spec_parts import Kind
from tdxstack.platform import PlatformChoice
from tdxstack.testing.machines import Laboratory

STEP = 25_000_000
"""Hz: the TDX module counts a TD's TSC frequency in steps of 25 MHz, CPUID's crystal clock."""

CPUID_TSC = 0x15
CPUID_SCRIPT = f"import os; print(os.pread(os.open('/dev/cpu/0/cpuid', os.O_RDONLY), 16, {CPUID_TSC}).hex())"


@pytest.mark.td
def test_clocksource(laboratory: Laboratory) -> None:
    """A TD's kernel takes the TSC for its clock."""
    place = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
    assert laboratory.shared(Kind.TD).run(["cat", place]).stdout.decode().strip() == "tsc"


@pytest.mark.td
def test_frequency(laboratory: Laboratory, platform: PlatformChoice) -> None:
    """CPUID leaf 0x15 tells a TD the frequency of its TSC, and the kernel counts with that."""
    if platform.emulated:
        pytest.skip("the emulator does not model CPUID leaf 0x15, the TSC's frequency")
    machine = laboratory.shared(Kind.TD)
    machine.run(["modprobe", "cpuid"])
    leaf = bytes.fromhex(machine.run(["python3", "-c", CPUID_SCRIPT]).stdout.decode())
    denominator, numerator, crystal, _ = struct.unpack("<4I", leaf)
    assert (denominator, crystal) == (1, STEP)
    megahertz = numerator * crystal / 1e6
    assert 100 <= megahertz <= 10_000
    log = machine.run(["dmesg"]).stdout.decode()
    assert f"tsc: Detected {megahertz:.3f} MHz processor" in log
