"""The kinds of machines, as parameters of cases."""

from __future__ import annotations

import pytest

from tdxstack.machine.spec_parts import Kind

ALL = tuple(Kind)
KINDS = [pytest.param(kind, id=kind.value, marks=getattr(pytest.mark, kind.value)) for kind in ALL]
ORDINARY = KINDS[1:]
"""All but TDs."""


def chosen_kinds(request: pytest.FixtureRequest) -> list[Kind]:
    """The kinds of the cases of this module that are to run."""
    calls = [getattr(item, "callspec", None) for item in request.session.items if item.path == request.path]
    kinds = {call.params["kind"] for call in calls if call and "kind" in call.params}
    return [kind for kind in ALL if kind in kinds]
