"""Calls into libvirt: bounded in time, their errors made ours.

libvirt's calls have no time-out of their own: each is made in a thread that is given up when its time is
over, after which the connection must not be used any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast
from xml.etree import ElementTree

from tdxstack.errors import CommandError, MalformedError, TdxError
from tdxstack.machine import libvirt_binding as binding
from tdxstack.machine.libvirt_binding import Binding, Failure

Result = TypeVar("Result")

_HINTS: dict[int, str] = {
    Failure.CONFIG_UNSUPPORTED: "a TD needs libvirt 11.6 and QEMU 10.1 on a host with TDX: tdx doctor",
    Failure.NO_STORAGE_VOLUME: (
        "images lie in a storage pool of libvirt's host, mostly /var/lib/libvirt/images"
    ),
}


@functools.cache
def serve_events(api: Binding) -> None:
    """Run libvirt's event loop for as long as the process lives; it must be there before a connection."""
    api.registerErrorHandler(lambda _context, _error: None, None)
    api.virEventRegisterDefaultImpl()

    def serve() -> None:
        while True:
            api.virEventRunDefaultImpl()

    threading.Thread(target=serve, name="libvirt-events", daemon=True).start()


@dataclass(frozen=True, slots=True)
class Calls:
    """How a libvirt is called: through what, where it is, and how many seconds it may take."""

    library: Binding
    uri: str
    seconds: float

    async def call(self, what: str, call: Callable[[], Result]) -> Result:
        """The result of `call`, or libvirt's error as one of ours; `CommandError` when the time is over."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()

        def settle(settle_it: Callable[[], None]) -> None:
            # Whoever waited may have gone, alone or with its loop.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: None if answer.done() else settle_it())

        def work() -> None:
            try:
                result = call()
            except self.library.libvirtError as error:
                explained = self._explain(what, error)
                settle(lambda: answer.set_exception(explained))
            except Exception as error:  # noqa: BLE001 - handed to the caller
                # Frames that an error remembers hold libvirt's objects, and those hold the connection open.
                bare = error.with_traceback(None)
                settle(lambda: answer.set_exception(bare))
            else:
                settle(lambda: answer.set_result(result))

        threading.Thread(target=work, daemon=True).start()
        try:
            return await asyncio.wait_for(answer, self.seconds)
        except TimeoutError:
            raise CommandError(
                f"asked libvirt at {self.uri} to {what}: no answer within {self.seconds:g} s",
                hint="see that its daemon runs and that its host can be reached",
            ) from None

    def _explain(self, what: str, error: Exception) -> TdxError:
        hint = _HINTS.get(code(error) or 0, "")
        return CommandError(f"asked libvirt at {self.uri} to {what}: {words(error)}", hint=hint)


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
        raise MalformedError(
            f"libvirt's XML cannot be read: {error}", hint="give a domain's XML, as `virsh dumpxml` shows it"
        ) from None
