"""YAML as people write it for us: read into strings, lists and mappings, each mistake told with its place."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final

import yaml
from pydantic import ValidationError

from tdxstack.errors import MalformedError
from tdxstack.terminal import printable

MAX_SIZE: Final = 1 << 20
"""Bytes of a document."""

MAX_WEIGHT: Final = 4 * MAX_SIZE
"""Letters of a document with its aliases written out. Nothing is that long without them."""

_MAX_TOLD = 50
_MAX_PLACE = 200


class _Loader(yaml.BaseLoader):
    """Strings, lists and mappings only: a digest of digits stays text. A key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if isinstance(name, str) and name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name!r} is given twice", key.start_mark
                )
            seen.add(name if isinstance(name, str) else None)
        return super().construct_mapping(node, deep)


def load(text: bytes, what: str, *, hint: str) -> object:
    """The document `text`; an empty one is an empty mapping.

    Raises `MalformedError`, which begins with `what` it should have been.
    """
    if len(text) > MAX_SIZE:
        raise MalformedError(f"{what}: {len(text)} bytes, more than {MAX_SIZE}", hint=hint)
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return {}
        if _weight(root, {}) > MAX_WEIGHT:
            raise MalformedError(f"{what}: its aliases repeat too much", hint=hint)
        document = loader.construct_document(root)
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        raise MalformedError(f"{what}: {' '.join(str(error).split())}", hint="give it in YAML") from None
    return {} if document in (None, "") else document


def _weight(node: yaml.Node, known: dict[int, int]) -> int:
    """About the letters of a node with all that its aliases repeat; those of one in itself have no end.

    Raises `UnicodeEncodeError` for what is no text, such as half of a surrogate pair.
    """
    if id(node) not in known:
        known[id(node)] = MAX_WEIGHT + 1
        if isinstance(node, yaml.ScalarNode):
            weight = len(node.value.encode())
        elif isinstance(node, yaml.MappingNode):
            weight = sum(_weight(part, known) for pair in node.value for part in pair)
        else:
            weight = sum(_weight(part, known) for part in node.value)
        known[id(node)] = 1 + weight
    return known[id(node)]


def invalid(error: ValidationError, what: str, *, hint: str, text: bytes = b"") -> MalformedError:
    """The error that lists everything that is wrong with a document, each with its place.

    With the `text` that was loaded, if it has more than one line, each comes with its line too.
    """
    root = yaml.compose(text, Loader=_Loader) if text.strip().count(b"\n") else None
    problems = [
        f"{_place(item['loc'])}: {_problem(item)}{_line(root, item['loc'])}"
        for item in error.errors()[:_MAX_TOLD]
    ]
    if error.error_count() > _MAX_TOLD:
        problems.append(f"and {error.error_count() - _MAX_TOLD} more")
    return MalformedError(f"{what}: {'; '.join(problems)}", hint=hint)


def _place(location: tuple[int | str, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return printable(text.removeprefix(".")[:_MAX_PLACE]) or "document"


def _line(node: yaml.Node | None, location: tuple[int | str, ...]) -> str:
    """The line of what is at `location`, or of what it is missing from."""
    line = None
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if getattr(key, "value", None) == str(part)]
            if not found:
                break
            line, node = found[0][0].start_mark.line, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
        else:
            break
    return f" (line {line + 1})" if line is not None else ""


def _problem(item: Any) -> str:
    if item["type"] == "extra_forbidden":
        return "there is no such key"
    if item["type"] in ("enum", "literal_error"):
        known = str(item["ctx"]["expected"]).replace(" or ", ", ").replace("'", "")
        return f"{str(item['input'])[:40]!r} is not one of {known}"
    return str(item["msg"]).removeprefix("Value error, ")
