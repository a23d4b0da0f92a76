"""What a guest's kernel must be able to do, read from the configuration that it was built with."""

from __future__ import annotations

import re

from tdxstack.errors import UnavailableError

REQUIRED = {
    "INTEL_TDX_GUEST": "run in a TD",
    "TDX_GUEST_DRIVER": "get a TDREPORT (/dev/tdx_guest)",
    "TSM_REPORTS": "get a quote (configfs-tsm)",
    "TSM_MEASUREMENTS": "read and extend RTMRs in sysfs (kernel 6.16 and newer)",
    "UNACCEPTED_MEMORY": "accept memory while it runs",
    "EFI_STUB": "be started by firmware",
    "VIRTIO_BLK": "read its disk",
    "VIRTIO_NET": "be reached over the network",
    "FW_CFG_SYSFS": "read the SSH key that it is started with",
}
"""Options without the CONFIG_ prefix, and what the guest cannot do without each."""

_SET = re.compile(r"^CONFIG_(\w+)=(.+)$", re.MULTILINE)


def options(config: str) -> dict[str, str]:
    """The options that are set in a kernel's config file, without the CONFIG_ prefix: y, m or a value."""
    return dict(_SET.findall(config))


def missing_options(config: str) -> list[str]:
    """The options of `REQUIRED` that a kernel was built without."""
    found = options(config)
    return [name for name in REQUIRED if found.get(name) not in ("y", "m")]


def check(version: str, config: str) -> None:
    """Raise `UnavailableError`, naming what is missing, for a kernel without an option of `REQUIRED`."""
    missing = missing_options(config)
    if missing:
        raise UnavailableError(
            f"kernel {version} cannot {', nor '.join(REQUIRED[name] for name in missing)}: "
            f"built without {', '.join(f'CONFIG_{name}' for name in missing)}",
            hint="use a mirror that carries a newer kernel (for Debian, in its backports suite)",
        )
