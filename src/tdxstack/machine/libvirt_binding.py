"""What is used of libvirt-python, and how it is found: it is optional, and loaded when it is needed.

The numbers are those of libvirt's public headers (libvirt-domain.h, virterror.h), which never change.
"""

from __future__ import annotations

import enum
import importlib
from collections.abc import Callable
from typing import Protocol, cast

from tdxstack.errors import UnavailableError
from tdxstack.toolbox.host_packages import needed


class DomainState(enum.IntEnum):
    """virDomainState."""

    RUNNING = 1
    BLOCKED = 2
    PAUSED = 3
    SHUTDOWN = 4
    SHUTOFF = 5
    CRASHED = 6
    PMSUSPENDED = 7


class Failure(enum.IntEnum):
    """virErrorNumber: those that mean something of their own here."""

    NO_DOMAIN = 42
    NO_STORAGE_VOLUME = 50
    CONFIG_UNSUPPORTED = 67
    AGENT_UNRESPONSIVE = 86


EVENT_LIFECYCLE = 0
"""VIR_DOMAIN_EVENT_ID_LIFECYCLE; its callback gets an event and a detail."""
EVENT_REBOOT = 1
"""VIR_DOMAIN_EVENT_ID_REBOOT; its callback gets nothing more."""
BY_ACPI = 1
"""VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN, and the same of VIR_DOMAIN_REBOOT."""
BY_AGENT = 2
"""VIR_DOMAIN_SHUTDOWN_GUEST_AGENT, and the same of VIR_DOMAIN_REBOOT."""
START_PAUSED = 1
START_AUTODESTROY = 2
DEFINE_VALIDATE = 1
"""VIR_DOMAIN_DEFINE_VALIDATE: check against libvirt's schema."""
UNDEFINE_MANAGED_SAVE_AND_NVRAM = 1 | 4
"""VIR_DOMAIN_UNDEFINE_MANAGED_SAVE and VIR_DOMAIN_UNDEFINE_NVRAM."""
CONSOLE_FORCE = 1
"""VIR_DOMAIN_CONSOLE_FORCE: take the console over from whoever has it."""
POOLS_ACTIVE = 2
"""VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE."""
METADATA_ELEMENT = 2
"""VIR_DOMAIN_METADATA_ELEMENT."""
ADDRESS_SOURCES = (0, 1, 2)
"""virDomainInterfaceAddressesSource: DHCP leases, guest agent, ARP table."""


class Stream(Protocol):
    """A virStream: a connection that is carried by libvirt's."""

    def recv(self, nbytes: int) -> bytes: ...
    def send(self, data: bytes) -> int: ...
    def abort(self) -> int: ...


class Domain(Protocol):
    """A virDomain."""

    def name(self) -> str: ...
    def state(self) -> list[int]: ...
    def createWithFlags(self, flags: int) -> int: ...
    def suspend(self) -> int: ...
    def resume(self) -> int: ...
    def shutdownFlags(self, flags: int) -> int: ...
    def reboot(self, flags: int) -> int: ...
    def reset(self) -> int: ...
    def destroy(self) -> int: ...
    def undefineFlags(self, flags: int) -> int: ...
    def XMLDesc(self) -> str: ...
    def metadata(self, type: int, uri: str) -> str: ...
    def interfaceAddresses(self, source: int) -> dict[str, dict[str, object]] | None: ...
    def openConsole(self, dev_name: str | None, st: Stream, flags: int) -> int: ...


class Volume(Protocol):
    """A virStorageVol."""

    def path(self) -> str: ...
    def info(self) -> list[int]: ...
    def delete(self, flags: int) -> int: ...
    def storagePoolLookupByVolume(self) -> Pool: ...


class Pool(Protocol):
    """A virStoragePool."""

    def refresh(self, flags: int) -> int: ...
    def createXML(self, xmlDesc: str, flags: int) -> Volume: ...


class Connection(Protocol):
    """A virConnect."""

    def close(self) -> int: ...
    def setKeepAlive(self, interval: int, count: int) -> int: ...
    def getLibVersion(self) -> int: ...
    def getDomainCapabilities(
        self, emulatorbin: str | None, arch: str, machine: str, virttype: str | None
    ) -> str: ...
    def defineXMLFlags(self, xml: str, flags: int) -> Domain: ...
    def lookupByName(self, name: str) -> Domain: ...
    def listAllDomains(self) -> list[Domain]: ...
    def storageVolLookupByPath(self, path: str) -> Volume: ...
    def listAllStoragePools(self, flags: int) -> list[Pool]: ...
    def newStream(self) -> Stream: ...
    def domainEventRegisterAny(
        self, dom: Domain | None, eventID: int, cb: Callable[..., None], opaque: object
    ) -> int: ...
    def domainEventDeregisterAny(self, callbackID: int) -> int: ...


class Error(Protocol):
    """What a libvirtError says."""

    def get_error_code(self) -> int | None: ...
    def get_error_message(self) -> str | None: ...


class Binding(Protocol):
    """The module `libvirt`."""

    libvirtError: type[Exception]

    def __hash__(self) -> int: ...
    def open(self, name: str) -> Connection: ...
    def virEventRegisterDefaultImpl(self) -> int: ...
    def virEventRunDefaultImpl(self) -> int: ...
    def registerErrorHandler(self, f: Callable[[object, object], None], ctx: object) -> int: ...


def load() -> Binding:
    """The module `libvirt`. Raises `UnavailableError` where it is not installed."""
    try:
        return cast(Binding, importlib.import_module("libvirt"))
    except ImportError as error:
        raise UnavailableError(
            f"libvirt's Python binding cannot be loaded: {error}",
            hint=f"apt-get install {' '.join(needed(['libvirt']))}; then: pip install 'tdxstack[libvirt]'",
        ) from None
