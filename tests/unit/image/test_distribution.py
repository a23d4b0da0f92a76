from __future__ import annotations

from tdxstack.image.distribution import (
    BOOT_LOADERS,
    DISTRIBUTIONS,
    ESSENTIAL,
    MASKED_GENERATORS,
    MASKED_UNITS,
    SYSTEM,
    VERITY_PACKAGES,
)


def test_lists_have_no_doubles() -> None:
    packages = [
        [*ESSENTIAL, *SYSTEM, *kernel, *BOOT_LOADERS, *VERITY_PACKAGES]
        for distribution in DISTRIBUTIONS.values()
        for kernel in (distribution.kernel, distribution.backported_kernel)
    ]
    for names in (*packages, MASKED_UNITS, MASKED_GENERATORS):
        assert len(set(names)) == len(names)


def test_what_is_needed_is_not_masked() -> None:
    needed = {"ssh.service", "systemd-networkd.service", "systemd-udevd.service", "sys-kernel-config.mount"}
    assert needed.isdisjoint(MASKED_UNITS)
