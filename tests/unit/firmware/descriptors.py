"""Descriptors and images for tests, in the form of Debian's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.unit.abi.tdvf_images import image


def document(**changes: Any) -> dict[str, Any]:
    return {
        "description": "OVMF with Intel TDX support",
        "interface-types": ["uefi"],
        "mapping": {"device": "memory", "filename": "/usr/share/ovmf/TDVF.fd"},
        "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
        "features": ["intel-tdx", "secure-boot"],
        "tags": [],
        **changes,
    }


def place(directory: Path, name: str, **changes: Any) -> Path:
    """Write a descriptor into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(json.dumps(document(**changes)))
    return path


def tree(root: Path) -> Path:
    """A root with a descriptor and its image, as the Debian package unpacks to."""
    place(root / "usr/share/qemu/firmware", "60-edk2-x86_64-inteltdx.json")
    (root / "usr/share/ovmf").mkdir(parents=True)
    (root / "usr/share/ovmf/TDVF.fd").write_bytes(image())
    return root
