"""How values are written into QEMU's options."""

from __future__ import annotations

import json
from pathlib import Path


def json_option(**members: object) -> str:
    """One of QEMU's JSON options; underscores in a name stand for hyphens."""
    return json.dumps({name.replace("_", "-"): value for name, value in members.items()})


def escape(value: Path | str) -> str:
    """A value inside a comma-separated option (QEMU doubles commas)."""
    return str(value).replace(",", ",,")
