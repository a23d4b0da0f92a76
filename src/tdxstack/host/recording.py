"""A host's answers as data: recorded once, given again elsewhere.

An answer is JSON: {"value": ...} in the form of its question, or {"error", "message", "hint"}. Text of
several lines is a list of lines, so that a person can read a recording before sending it.
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar

from tdxstack.errors import MalformedError
from tdxstack.exchange import Address
from tdxstack.host_access import (
    COMMAND_SECONDS,
    MAX_READ,
    AbsentError,
    FileStatus,
    ForbiddenError,
    Host,
    HostError,
    KernelLog,
    Output,
    UnansweredError,
    WebAnswer,
)
from tdxstack.run import command_line

Answers = Mapping[str, Mapping[str, Any]]
"""By question."""

Value = TypeVar("Value")

_ERRORS: Final = {kind.kind: kind for kind in (AbsentError, ForbiddenError, UnansweredError)}


@dataclass
class _Slot:
    """One question, which is asked once however many threads want to know."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    answer: Mapping[str, Any] | None = None


class Recorder:
    """A host that asks another one each question once, and keeps the answers."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._slots: dict[str, _Slot] = {}
        self._lock = threading.Lock()

    @property
    def answers(self) -> Answers:
        """The answers so far, by question, in order of the questions."""
        return {name: slot.answer for name, slot in sorted(self._slots.items()) if slot.answer is not None}

    def kvm_extension(self, capability: int) -> int:
        return _integer(self._ask(f"kvm {capability}", lambda: self._host.kvm_extension(capability)))

    def read(self, path: str, *, limit: int = MAX_READ) -> bytes:
        return _bytes(self._ask(f"read {path}", lambda: _plain(self._host.read(path, limit=limit))))

    def entries(self, path: str) -> tuple[str, ...]:
        return _strings(self._ask(f"entries {path}", lambda: list(self._host.entries(path))))

    def status(self, path: str) -> FileStatus:
        return _status(self._ask(f"status {path}", lambda: _plain_status(self._host.status(path))))

    def msr(self, number: int) -> int:
        return _integer(self._ask(f"msr {number:#x}", lambda: self._host.msr(number)))

    def kernel_log(self) -> KernelLog:
        return _log(self._ask("kernel_log", lambda: _plain_log(self._host.kernel_log())))

    def kernel_release(self) -> str:
        return _string(self._ask("kernel_release", self._host.kernel_release))

    def program(self, name: str) -> str:
        return _string(self._ask(f"program {name}", lambda: self._host.program(name)))

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = COMMAND_SECONDS) -> Output:
        return _output(
            self._ask(
                f"run {command_line(argv)}",
                lambda: _plain_output(self._host.run(argv, stdin=stdin, timeout=timeout)),
            )
        )

    def exchange(self, address: Address, message: bytes, *, timeout: float) -> bytes:
        name = f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)
        return _bytes(
            self._ask(
                f"exchange {name}",
                lambda: _plain(self._host.exchange(address, message, timeout=timeout)),
            )
        )

    def fetch(self, url: str, *, timeout: float) -> WebAnswer:
        return _web(self._ask(f"fetch {url}", lambda: _plain_web(self._host.fetch(url, timeout=timeout))))

    def _ask(self, question: str, ask: Callable[[], Any]) -> Any:
        with self._lock:
            slot = self._slots.setdefault(question, _Slot())
        with slot.lock:
            if slot.answer is None:
                slot.answer = _recorded(ask)
        return _given(slot.answer)


class RecordedHost(Recorder):
    """A host made of recorded answers. What was not asked when it was recorded is unanswered."""

    def __init__(self, answers: Answers) -> None:
        super().__init__(_Nobody())
        self._slots = {question: _Slot(answer=answer) for question, answer in answers.items()}

    def check(self) -> None:
        """Give every answer once. Raises `MalformedError` for one that has not the form of its question."""
        for question, slot in self._slots.items():
            kind = question.split(" ", 1)[0]
            try:
                _FORMS[kind](_given(slot.answer or {}))
            except HostError:
                continue
            except (KeyError, TypeError, ValueError, AttributeError):
                raise MalformedError(
                    f"the recording's answer to {question[:80]!r} makes no sense",
                    hint="record the host again",
                ) from None


class _Nobody:
    """Answers nothing: the questions were not asked when the host was recorded."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def unanswered(*_arguments: object, **_options: object) -> Any:
            raise UnansweredError("the recording does not tell", hint="tdx host report, with this version")

        return unanswered


def _recorded(ask: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"value": ask()}
    except HostError as error:
        return {"error": error.kind, "message": error.message, "hint": error.hint}


def _given(answer: Mapping[str, Any]) -> Any:
    if "error" in answer:
        kind = _ERRORS[answer["error"]]
        raise kind(_string(answer["message"]), hint=_string(answer["hint"]))
    return answer["value"]


def _plain(data: bytes) -> Any:
    """Bytes as text, as lines, or in base64 where they are neither."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}
    if "\0" in text:
        return {"base64": base64.b64encode(data).decode()}
    return _lines(text)


def _lines(text: str) -> Any:
    return text.split("\n") if "\n" in text else text


def _bytes(value: Any) -> bytes:
    if isinstance(value, dict):
        try:
            return base64.b64decode(_string(value["base64"]), validate=True)
        except binascii.Error:
            raise ValueError("not base64") from None
    return _text(value).encode()


def _text(value: Any) -> str:
    return "\n".join(_strings(value)) if isinstance(value, list) else _string(value)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return tuple(_string(one) for one in value)


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("not a number")
    return value


def _plain_status(status: FileStatus) -> dict[str, Any]:
    return {
        "kind": status.kind,
        "mode": f"{status.mode:04o}",
        "owner": status.owner,
        "group": status.group,
        "size": status.size,
        "modified": status.modified.isoformat(),
        "label": status.label,
    }


def _status(value: Any) -> FileStatus:
    modified = datetime.fromisoformat(_string(value["modified"]))
    if modified.tzinfo is None:
        raise ValueError("a time without a zone")
    return FileStatus(
        kind=_string(value["kind"]),
        mode=int(_string(value["mode"]), 8),
        owner=_string(value["owner"]),
        group=_string(value["group"]),
        size=_integer(value["size"]),
        modified=modified,
        label=_string(value["label"]),
    )


def _plain_log(log: KernelLog) -> dict[str, Any]:
    return {"lines": list(log.lines), "source": log.source, "complete": log.complete}


def _log(value: Any) -> KernelLog:
    return KernelLog(_strings(value["lines"]), _string(value["source"]), value["complete"] is True)


def _plain_output(output: Output) -> dict[str, Any]:
    return {
        "returncode": output.returncode,
        "stdout": _lines(output.stdout),
        "stderr": _lines(output.stderr),
    }


def _output(value: Any) -> Output:
    return Output(_integer(value["returncode"]), _text(value["stdout"]), _text(value["stderr"]))


def _plain_web(answer: WebAnswer) -> dict[str, Any]:
    return {
        "status": answer.status,
        "headers": dict(answer.headers),
        "body": _plain(answer.body),
        "trusted": answer.trusted,
    }


def _web(value: Any) -> WebAnswer:
    headers = {_string(name): _string(text) for name, text in value["headers"].items()}
    return WebAnswer(_integer(value["status"]), headers, _bytes(value["body"]), value["trusted"] is True)


_FORMS: Final[Mapping[str, Callable[[Any], object]]] = {
    "kvm": _integer,
    "read": _bytes,
    "entries": _strings,
    "status": _status,
    "msr": _integer,
    "kernel_log": _log,
    "kernel_release": _string,
    "program": _string,
    "run": _output,
    "exchange": _bytes,
    "fetch": _web,
}
