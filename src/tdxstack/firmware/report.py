"""One firmware file, described for people and programs."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

from tdxstack.abi.tdvf import CFV, Section
from tdxstack.errors import about
from tdxstack.firmware.contents import Contents, open_contents
from tdxstack.measurement.mrtd import mrtd


def describe(path: Path, image: bytes) -> dict[str, object]:
    """The document that `tdx firmware inspect --json` prints (docs/reference/json.md).

    Raises `MalformedError` for what is no firmware image, or a broken one.
    """
    with about(f"firmware {path}"):
        contents = open_contents(image)
    return {
        "path": str(path),
        "sha256": hashlib.sha256(image).hexdigest(),
        "can_start_td": not contents.problems,
        "problems": contents.problems,
        "measures": contents.measures,
        "firmware": asdict(contents.strings) if contents.strings else None,
        "profile": {"name": contents.profile.name, "exact": contents.profile_exact},
        "secure_boot": contents.secure_boot.value,
        "mrtd": _mrtd(contents),
        "sections": [_section(one) for one in contents.metadata.sections] if contents.metadata else [],
        "volumes": [
            {
                "name": str(volume.name) if volume.name else None,
                "offset": volume.offset,
                "size": len(volume.data),
                "files": len(volume.files),
            }
            for volume in contents.volumes
        ],
        "variables": [
            {
                "name": variable.name,
                "vendor": str(variable.vendor),
                "size": len(variable.data),
                "sha256": hashlib.sha256(variable.data).hexdigest(),
            }
            for variable in contents.variables.values()
        ],
    }


def _mrtd(contents: Contents) -> dict[str, str] | None:
    if contents.metadata is None:
        return None
    value = mrtd(contents.image)
    return {"single_pass": value.single_pass.hex(), "two_pass": value.two_pass.hex()}


def _section(section: Section) -> dict[str, object]:
    measured = "MRTD" if section.measured else None
    return {
        "type": section.name,
        "address": section.address,
        "size": section.size,
        "data_offset": section.data_offset,
        "data_size": section.data_size,
        "measured_into": "RTMR0, by the firmware" if section.type == CFV else measured,
    }
