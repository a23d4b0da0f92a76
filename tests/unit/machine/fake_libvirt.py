"""A libvirt in memory: what of libvirt-python is used, with domains that do what they are told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from xml.etree import ElementTree

from tdxstack.machine import libvirt_binding as binding
from tdxstack.machine.libvirt_binding import DomainState, Failure

NO_METADATA = 80
OPERATION_FAILED = 9
STARTED, STOPPED = 2, 5
BOOTED, FINISHED, DESTROYED = 0, 0, 1


class FakeError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self._code, self._message = code, message

    def get_error_code(self) -> int | None:
        return self._code

    def get_error_message(self) -> str | None:
        return self._message


class FakeStream:
    """Says `said`, hears what is typed, and ends when it is aborted."""

    def __init__(self, said: list[bytes]) -> None:
        self.said, self.heard = said, b""
        self._aborted = threading.Event()

    def recv(self, nbytes: int) -> bytes:
        if self.said:
            return self.said.pop(0)
        self._aborted.wait()
        raise FakeError(OPERATION_FAILED, "stream aborted")

    def send(self, data: bytes) -> int:
        self.heard += data
        return len(data)

    def abort(self) -> int:
        self._aborted.set()
        return 0


class FakeDomain:
    def __init__(self, world: FakeLibvirt, xml: str) -> None:
        self._world, self._xml = world, xml
        self._name = ElementTree.fromstring(xml).findtext("name", "")
        self._state = DomainState.SHUTOFF
        self.flags = 0
        self.agent: FakeError | None = None
        self.obeys = True

    def name(self) -> str:
        return self._name

    def state(self) -> list[int]:
        time.sleep(self._world.delay)
        return [self._state, 1]

    def createWithFlags(self, flags: int) -> int:
        if self._state is not DomainState.SHUTOFF:
            raise FakeError(55, "Requested operation is not valid: domain is already running")
        self.flags = flags
        self._change(DomainState.RUNNING, STARTED, BOOTED)
        return 0

    def suspend(self) -> int:
        self._state = DomainState.PAUSED
        return 0

    def resume(self) -> int:
        self._state = DomainState.RUNNING
        return 0

    def shutdownFlags(self, flags: int) -> int:
        self.flags = flags
        if self.obeys:
            self._change(DomainState.SHUTOFF, STOPPED, FINISHED)
        if flags == binding.BY_AGENT and self.agent:
            raise self.agent
        return 0

    def reboot(self, flags: int) -> int:
        self.flags = flags
        if flags == binding.BY_AGENT and self.agent:
            raise self.agent
        return self.reset()

    def reset(self) -> int:
        self._world.reboots(self)
        return 0

    def destroy(self) -> int:
        self._change(DomainState.SHUTOFF, STOPPED, DESTROYED)
        return 0

    def undefineFlags(self, flags: int) -> int:
        self._world.domains.remove(self)
        return 0

    def XMLDesc(self) -> str:
        return self._xml

    def metadata(self, type: int, uri: str) -> str:
        if uri not in self._xml:
            raise FakeError(NO_METADATA, "metadata not found")
        return "<machine/>"

    def interfaceAddresses(self, source: int) -> dict[str, dict[str, object]] | None:
        if source == 1:
            raise FakeError(Failure.AGENT_UNRESPONSIVE, "no agent")
        return self._world.interfaces

    def openConsole(self, dev_name: str | None, st: binding.Stream, flags: int) -> int:
        return 0

    def _change(self, state: DomainState, event: int, detail: int) -> None:
        self._state = state
        self._world.tells(self, event, detail)


class FakeVolume:
    """A volume, and the pool that it lies in."""

    def __init__(self, world: FakeLibvirt, path: str, xml: str = "") -> None:
        self._world, self._path, self.xml = world, path, xml

    def path(self) -> str:
        return self._path

    def info(self) -> list[int]:
        return [0, 1 << 30, 1 << 20]

    def delete(self, flags: int) -> int:
        self._world.volumes.remove(self)
        return 0

    def storagePoolLookupByVolume(self) -> binding.Pool:
        return self

    def refresh(self, flags: int) -> int:
        self._world.volumes.extend(self._world.unseen)
        self._world.unseen.clear()
        return 0

    def createXML(self, xmlDesc: str, flags: int) -> binding.Volume:
        directory = self._path.rpartition("/")[0]
        name = ElementTree.fromstring(xmlDesc).findtext("name", "")
        self._world.volumes.append(FakeVolume(self._world, f"{directory}/{name}", xmlDesc))
        return self._world.volumes[-1]


class FakeLibvirt:
    """The module and its only connection."""

    libvirtError: type[Exception] = FakeError

    def __init__(self) -> None:
        self.domains: list[FakeDomain] = []
        self.interfaces: dict[str, dict[str, object]] = {}
        self.stream = FakeStream([])
        self.volumes: list[FakeVolume] = []
        self.unseen: list[FakeVolume] = []
        """Volumes that a pool finds when it is refreshed."""
        self.delay = 0.0
        self.refuses: FakeError | None = None
        self.refuses_definitions: FakeError | None = None
        self.capabilities = "<domainCapabilities/>"
        self.version = 12_008_000
        self.closed = False
        self._callbacks: dict[int, tuple[int, Callable[..., None]]] = {}

    def open(self, name: str) -> binding.Connection:
        if self.refuses:
            raise self.refuses
        return self

    def virEventRegisterDefaultImpl(self) -> int:
        return 0

    def virEventRunDefaultImpl(self) -> int:
        threading.Event().wait()
        return 0

    def registerErrorHandler(self, f: Callable[[object, object], None], ctx: object) -> int:
        return 0

    def close(self) -> int:
        self.closed = True
        return 0

    def setKeepAlive(self, interval: int, count: int) -> int:
        raise FakeError(3, "this function is not supported by the connection driver")

    def getLibVersion(self) -> int:
        return self.version

    def getDomainCapabilities(
        self, emulatorbin: str | None, arch: str, machine: str, virttype: str | None
    ) -> str:
        return self.capabilities

    def defineXMLFlags(self, xml: str, flags: int) -> binding.Domain:
        if refused := self.refuses or self.refuses_definitions:
            raise refused
        self.domains.append(FakeDomain(self, xml))
        return self.domains[-1]

    def lookupByName(self, name: str) -> binding.Domain:
        for domain in self.domains:
            if domain.name() == name:
                return domain
        raise FakeError(Failure.NO_DOMAIN, f"Domain not found: no domain with matching name {name!r}")

    def listAllDomains(self) -> list[binding.Domain]:
        return list(self.domains)

    def storageVolLookupByPath(self, path: str) -> binding.Volume:
        for volume in self.volumes:
            if volume.path() == path:
                return volume
        raise FakeError(Failure.NO_STORAGE_VOLUME, f"Storage volume not found: no storage vol {path!r}")

    def listAllStoragePools(self, flags: int) -> list[binding.Pool]:
        return [*self.unseen]

    def newStream(self) -> binding.Stream:
        return self.stream

    def domainEventRegisterAny(
        self, dom: binding.Domain | None, eventID: int, cb: Callable[..., None], opaque: object
    ) -> int:
        number = len(self._callbacks)
        self._callbacks[number] = (eventID, cb)
        return number

    def domainEventDeregisterAny(self, callbackID: int) -> int:
        del self._callbacks[callbackID]
        return 0

    @property
    def watched(self) -> int:
        return len(self._callbacks)

    def tells(self, domain: FakeDomain, event: int, detail: int) -> None:
        for kind, callback in self._callbacks.values():
            if kind == binding.EVENT_LIFECYCLE:
                callback(self, domain, event, detail, None)

    def reboots(self, domain: FakeDomain) -> None:
        for kind, callback in self._callbacks.values():
            if kind == binding.EVENT_REBOOT:
                callback(self, domain, None)
