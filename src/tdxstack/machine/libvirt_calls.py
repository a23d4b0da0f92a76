"""Calls into libvirt: bounded in time, their errors made ours.

libvirt's calls have no time-out of their own: each is made in a thread that is given up when its time is
over, after which the connection must not be used any more.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable
from typing import TypeVar, cast
from xml.etree import ElementTree

from tdxstack.errors import CommandError, MalformedError, TdxError
from tdxstack.machine import libvirt_binding as binding
from tdxstack.machine.libvirt_binding import Binding, Failure

Result = TypeVar("Result")


@functools.cache
def serve_events(api: Binding) -> None:
    """Run libvirt's event loop for as long as the process lives; it must be there before a connection."""
    api.registerErrorHandler(lambda _context, _error: None, None)
    api.virEventRegisterDefaultImpl()

    def serve() -> None:
        while True:
            api.virEventRunDefaultImpl()

    threading.Thread(target=serve, name="libvirt-events", daemon=True).start()


def bounded(api: Binding, what: str, call: Callable[[], Result], seconds: float) -> Result:
    """The result of `call`, or libvirt's error as one of ours; `CommandError` after `seconds`."""
    answer: queue.SimpleQueue[tuple[Result | None, Exception | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answer.put((call(), None))
        except Exception as error:  # noqa: BLE001 - handed to the caller
            answer.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        result, error = answer.get(timeout=seconds)
    except queue.Empty:
        raise CommandError(
            f"asked libvirt at {what}: no answer within {seconds:g} s",
            hint="see that its daemon runs and that its host can be reached",
        ) from None
    if error is None:
        return cast(Result, result)
    try:
        # Frames that an error remembers hold libvirt's objects, and those hold the connection open.
        raise (
            _explain(what, error) if isinstance(error, api.libvirtError) else error.with_traceback(None)
        ) from None
    finally:
        del error


def _explain(what: str, error: Exception) -> TdxError:
    hint = ""
    if code(error) == Failure.CONFIG_UNSUPPORTED:
        hint = "a TD needs libvirt 11.6 and QEMU 10.1 on a host with TDX: tdx doctor"
    if code(error) == Failure.NO_STORAGE_VOLUME:
        hint = "images lie in a storage pool of libvirt's host, mostly /var/lib/libvirt/images"
    return CommandError(f"asked libvirt at {what}: {words(error)}", hint=hint)


def words(error: Exception) -> str:
    """What libvirt says of an error of its own."""
    return cast(binding.Error, error).get_error_message() or str(error)


def code(error: Exception) -> int | None:
    """The virErrorNumber of an error of libvirt's."""
    return cast(binding.Error, error).get_error_code()


def element(xml: str) -> ElementTree.Element:
    """The root of an XML text. Raises `MalformedError` for what is none."""
    try:
        return ElementTree.fromstring(xml)  # noqa: S314 - libvirt's own XML, or that of the caller
    except ElementTree.ParseError as error:
        raise MalformedError(f"libvirt's XML cannot be read: {error}") from None
