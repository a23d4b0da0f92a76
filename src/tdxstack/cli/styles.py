"""How the outcomes of checks look on a terminal."""

from __future__ import annotations

from typing import Final

from tdxstack.verification.result import Status

STYLES: Final = {
    Status.OK: "green",
    Status.FAIL: "bold red",
    Status.WARNING: "yellow",
    Status.NOT_APPLICABLE: "dim",
    Status.UNKNOWN: "bold yellow",
}
