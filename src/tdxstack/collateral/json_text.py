"""JSON from strangers: text that would take far more memory parsed than it has bytes is refused unparsed."""

from __future__ import annotations

import re
from typing import Final

from tdxstack.errors import MalformedError

MAX_CONTAINERS: Final = 200_000
"""Objects and arrays; a file of Intel's tool with all platforms has about 60,000."""

MAX_VALUES: Final = 1_000_000

_SMALL = 256 << 10
"""Characters that cannot hold enough values to matter."""

_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


def refuse_crowds(text: str, what: str, hint: str) -> None:
    """Raise `MalformedError` if `text` has more values than a document of `what` could have."""
    if len(text) <= _SMALL:
        return
    bare = _STRING.sub("", text)
    containers = bare.count("{") + bare.count("[")
    values = containers + bare.count(",")
    if containers > MAX_CONTAINERS or values > MAX_VALUES:
        raise MalformedError(
            f"{what}: {containers} objects and arrays and {values} values are too many", hint=hint
        )
