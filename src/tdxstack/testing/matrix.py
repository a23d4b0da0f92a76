"""The matrix of machines whose boots are predicted, booted as emulated TDs, and compared event by event.

A cell is one machine: what it is started from and by whose keys, the firmware, the kernel, and its shape.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

from tdxstack.testing.pairwise import combinations_of, pairwise

MAX_PAIRWISE = 24


class Boot(enum.Enum):
    """What the machine is started from."""

    DIRECT = "direct"
    """A kernel and an initrd from QEMU."""
    UKI = "uki"
    """A unified kernel image from QEMU."""
    GRUB = "grub"
    """shim and GRUB with a menu, from disk."""
    SYSTEMD_BOOT = "systemd-boot"
    """From disk; behind shim where only the distribution's keys are enrolled."""


class Keys(enum.Enum):
    """Which Secure Boot keys the firmware has."""

    NONE = "no-secure-boot"
    """It was built without Secure Boot."""
    SETUP = "setup-mode"
    """No platform key: Secure Boot is off."""
    VENDOR = "vendor-keys"
    """Those that the firmware comes with: Microsoft's."""
    OWN = "own-keys"
    """PK, KEK and db of one's own, besides Microsoft's db."""


class Build(enum.Enum):
    """A firmware of Debian's: the package, the suite, and the release of edk2."""

    INTEL_TDX = "inteltdx-2026.08"
    GENERIC_202608 = "generic-2026.08"
    GENERIC_202502 = "generic-2025.02"
    GENERIC_202211 = "generic-2022.11"


class Kernel(enum.Enum):
    """A kernel of Debian's."""

    NEW = "linux-image"
    """That of tdx's own guest image, from backports."""
    STABLE = "linux-stable"
    """That of the stable release."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One machine of the matrix. `memory` is in MiB; `disks` counts that to boot from."""

    boot: Boot
    keys: Keys
    firmware: Build
    kernel: Kernel
    vcpus: int
    memory: int
    disks: int
    nic: bool

    @property
    def name(self) -> str:
        """The cell as one word."""
        words = (self.boot.value, self.keys.value, self.firmware.value, self.kernel.value)
        shape = (f"{self.vcpus}cpu", f"{self.memory}M", f"{self.disks}disk", "nic" if self.nic else "no-nic")
        return ".".join((*words, *shape))


DIMENSIONS: Mapping[str, Sequence[Any]] = {
    "firmware": list(Build),
    "boot": list(Boot),
    "keys": list(Keys),
    "kernel": list(Kernel),
    "memory": [1024, 2048, 3584, 8192],
    "vcpus": [1, 2, 4],
    "disks": [1, 2],
    "nic": [True, False],
}
SMALLEST = {"memory": 1024, "vcpus": 1, "disks": 1, "nic": True}
CHAIN = ("firmware", "boot", "keys", "kernel")
"""What decides which events there are; the rest only changes what is in them."""
COSTS = {Boot.GRUB: 4, Boot.SYSTEMD_BOOT: 1}
"""GRUB reads the kernel slowly."""


def allowed(cell: Mapping[str, Any]) -> bool:
    """Whether there is such a machine, and something to compare."""
    firmware, boot, keys = cell["firmware"], cell["boot"], cell["keys"]
    if (keys is Keys.NONE) != (firmware is not Build.INTEL_TDX):
        return False
    if keys is Keys.VENDOR:
        # Only shim, and what Debian has signed, starts with Microsoft's keys alone.
        return boot in (Boot.GRUB, Boot.SYSTEMD_BOOT)
    if firmware is Build.GENERIC_202211:
        # It measures nothing, whatever it starts, in whatever machine; only newer kernels show the registers.
        small = [cell.get(name, value) == value for name, value in SMALLEST.items()]
        return boot is Boot.DIRECT and cell["kernel"] is Kernel.NEW and all(small)
    return True


def cost(cell: Mapping[str, Any]) -> int:
    """How long a cell takes, roughly: GRUB, many vCPUs and much memory."""
    return 10 * COSTS.get(cell["boot"], 0) + int(cell["vcpus"]) + int(cell["memory"]) // 2048


@cache
def pairwise_cells() -> tuple[Cell, ...]:
    """At most `MAX_PAIRWISE` cells in which every two values that can go together do so."""
    return tuple(Cell(**cell) for cell in pairwise(DIMENSIONS, allowed, cost))


@cache
def whole_cells() -> tuple[Cell, ...]:
    """Every chain of firmware, boot, keys and kernel, each with another shape."""
    shapes = list(product(*(DIMENSIONS[name] for name in DIMENSIONS if name not in CHAIN)))
    names = [name for name in DIMENSIONS if name not in CHAIN]
    chains = [cell for cell in combinations_of({name: DIMENSIONS[name] for name in CHAIN}) if allowed(cell)]
    # The step has no common divisor with the number of shapes, so that none comes twice before all have come.
    return tuple(
        Cell(**chain, **dict(zip(names, shapes[19 * number % len(shapes)], strict=True)))
        for number, chain in enumerate(chains)
    )
