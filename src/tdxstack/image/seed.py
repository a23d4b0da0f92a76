"""A disk that cloud-init takes its data from at the first start: FAT with the label of NoCloud."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from tdxstack.image.disk import ESP_VOLUME_ID, Tools, fill_fat

LABEL = "CIDATA"
_OVERHEAD = 1 << 20


def seed_disk(tools: Tools, files: Mapping[str, bytes], target: Path) -> None:
    """Write the raw disk `target` with `files` by name, such as `user-data`; the same files, the same bytes.

    `target` is replaced as a whole. Raises `CommandError` where a program fails.
    """
    kibibytes = -(-(sum(len(data) for data in files.values()) + _OVERHEAD) // 1024)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as name:
        made = Path(name, "disk")
        options = ("--invariant", "-i", ESP_VOLUME_ID, "-n", LABEL, "-C")
        tools.run("mkfs.vfat", *options, made, str(kibibytes))
        fill_fat(tools, str(made), files, Path(name, "files"))
        made.chmod(0o600)
        made.replace(target)
