"""Machines that libvirt runs, on any host that a libvirt URI names."""

from __future__ import annotations

import contextlib
import enum
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from tdxstack.errors import CommandError, TdxError, UnavailableError, UsageError
from tdxstack.machine import libvirt_binding as binding
from tdxstack.machine import libvirt_volumes
from tdxstack.machine.control import ENDED, RUNNING
from tdxstack.machine.libvirt_binding import Binding, Connection, Domain, DomainState, Failure
from tdxstack.machine.libvirt_calls import bounded, code, element, serve_events, words
from tdxstack.machine.libvirt_support import TdxSupport, tdx_support
from tdxstack.machine.libvirt_xml import METADATA, DomainPlacement, build_domain_xml
from tdxstack.machine.spec import MachineSpec

CALL_SECONDS = 60.0
POLL_SECONDS = 0.2
KEEPALIVE = (5, 3)
"""Seconds between signs of life of a remote libvirt, and how many may be missing."""

Result = TypeVar("Result")

_STATES: dict[int, str] = {
    DomainState.RUNNING: RUNNING,
    DomainState.BLOCKED: RUNNING,
    DomainState.PAUSED: "paused",
    DomainState.SHUTDOWN: "shutdown",
    DomainState.SHUTOFF: ENDED,
    DomainState.CRASHED: "guest-panicked",
    DomainState.PMSUSPENDED: "suspended",
}

_EVENTS: Sequence[tuple[str, Sequence[str]]] = (
    ("defined", ("added", "updated", "renamed", "from-snapshot")),
    ("undefined", ("removed", "renamed")),
    ("started", ("booted", "migrated", "restored", "from-snapshot", "woken")),
    ("suspended", ("paused", "migrated", "io-error", "watchdog", "restored", "from-snapshot", "api-error")),
    ("resumed", ("unpaused", "migrated", "from-snapshot")),
    ("stopped", ("shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from-snapshot")),
    ("shutdown", ("finished", "guest", "host")),
    ("pm-suspended", ("memory", "disk")),
    ("crashed", ("panicked", "crash-loaded")),
)
"""virDomainEventType and its details, by their numbers."""


class Mode(enum.Enum):
    """How a guest is asked to stop or to start anew, or that it is not asked."""

    ACPI = "acpi"
    AGENT = "agent"
    FORCE = "force"


@dataclass(frozen=True, slots=True)
class DomainEvent:
    """What happened to a machine, in words like virsh's."""

    machine: str
    event: str
    detail: str = ""


class Libvirt:
    """A connection to a libvirt; use `connect`. Domains that tdx has not defined are not touched."""

    def __init__(self, library: Binding, connection: Connection, uri: str, seconds: float) -> None:
        self._library = library
        self._connection = connection
        self._uri = uri
        self._seconds = seconds

    def create(self, spec: MachineSpec, placement: DomainPlacement) -> None:
        """Define the machine; it is not started. Raises as `build_domain_xml` and `define` do."""
        self.define(build_domain_xml(spec, placement))

    def define(self, xml: str) -> None:
        """Make a machine of a domain's XML, which libvirt checks against its schema; it is not started.

        Raises `UsageError` where there is a domain of that name, `UnavailableError` with libvirt's own words
        where it or its QEMU cannot run such a machine.
        """
        name = element(xml).findtext("name", "")
        if name in self._call("list domains", self._all_names):
            raise UsageError(
                f"{self._uri} has a domain {name!r} already", hint="choose another name, or remove it first"
            )
        flags = binding.DEFINE_VALIDATE
        self._call(f"define {name!r}", lambda: self._connection.defineXMLFlags(xml, flags))

    def start(self, name: str, *, autodestroy: bool = False, paused: bool = False) -> None:
        """Start a machine. `autodestroy` ends it when this connection ends, in whatever way."""
        flags = autodestroy * binding.START_AUTODESTROY | paused * binding.START_PAUSED
        self._act(name, "start", lambda domain: domain.createWithFlags(flags))

    def state(self, name: str) -> str:
        """`ended`, `running`, `paused`, `shutdown`, `suspended` or `guest-panicked`."""
        number = self._act(name, "ask for the state of", lambda domain: domain.state()[0])
        return _STATES.get(number, "unknown")

    def suspend(self, name: str) -> None:
        """Halt the vCPUs; memory stays."""
        self._act(name, "suspend", lambda domain: domain.suspend())

    def resume(self, name: str) -> None:
        """Let a halted machine go on."""
        self._act(name, "resume", lambda domain: domain.resume())

    def shutdown(self, name: str, mode: Mode = Mode.ACPI, *, timeout: float = CALL_SECONDS) -> None:
        """Stop a machine and wait until it has ended, at most `timeout` seconds.

        Raises `CommandError` where a guest that was asked has not ended by then.
        """
        if mode is Mode.FORCE:
            self._act(name, "end", lambda domain: domain.destroy())
            return
        how = binding.BY_ACPI if mode is Mode.ACPI else binding.BY_AGENT
        remark = self._act(name, "shut down", lambda domain: self._ask_to_end(domain, how))
        deadline = time.monotonic() + timeout
        while self.state(name) != ENDED:
            if time.monotonic() > deadline:
                raise CommandError(
                    f"machine {name!r} did not end within {timeout:g} s ({mode.value}){remark}",
                    hint="give it more time, or end it by force",
                )
            time.sleep(POLL_SECONDS)

    def reboot(self, name: str, mode: Mode = Mode.ACPI) -> None:
        """Tell a guest to start anew, or reset it (`force`), which loses what it has not written yet.

        An event `rebooted` says when it has. A TD on QEMU before 11.0 cannot, and ends.
        """
        if mode is Mode.FORCE:
            self._act(name, "reset", lambda domain: domain.reset())
            return
        how = binding.BY_ACPI if mode is Mode.ACPI else binding.BY_AGENT
        self._act(name, "reboot", lambda domain: domain.reboot(how))

    def undefine(self, name: str) -> None:
        """Forget a machine that has ended, with its UEFI variables; its disks stay.

        Raises `UnavailableError` where it runs: libvirt would let it run on without a definition.
        """
        if self.state(name) != ENDED:
            raise UnavailableError(f"machine {name!r} is running", hint="stop it first")
        self._act(
            name, "undefine", lambda domain: domain.undefineFlags(binding.UNDEFINE_MANAGED_SAVE_AND_NVRAM)
        )

    def make_overlay(self, base: Path, format_: str, name: str) -> Path:
        """Make a qcow2 volume `name` that reads from `base` and takes all writes itself; return its path.

        Both are libvirt's host's; `base`, an image in `format_`, must lie in one of its storage pools, and
        the overlay lies beside it. Raises `UnavailableError` where it does not.
        """

        def make() -> Path:
            volume = libvirt_volumes.find(self._library, self._connection, base)
            xml = libvirt_volumes.overlay_xml(base, format_, name, volume.info()[1])
            return Path(volume.storagePoolLookupByVolume().createXML(xml, 0).path())

        return self._call(f"make an overlay of {base}", make)

    def remove_overlay(self, path: Path) -> None:
        """Delete a volume."""
        find = libvirt_volumes.find
        self._call(f"delete {path}", lambda: find(self._library, self._connection, path).delete(0))

    def names(self) -> list[str]:
        """The machines that tdx has defined on that host, running or not."""
        return self._call("list domains", self._own_names)

    def xml(self, name: str) -> str:
        """The definition, with what libvirt has added to it."""
        return self._act(name, "describe", lambda domain: domain.XMLDesc())

    def addresses(self, name: str) -> list[str]:
        """The guest's IP addresses as a DHCP server, its agent or the host's ARP table knows them."""
        return self._act(name, "ask for the addresses of", self._addresses)

    def ports(self, name: str) -> dict[int, int]:
        """The host's TCP ports that are forwarded to the guest's: {guest port: host port}."""
        found = {}
        for forward in element(self.xml(name)).iterfind("devices/interface/portForward[@proto='tcp']/range"):
            start = int(forward.get("start", "0"))
            found[int(forward.get("to", start))] = start
        return found

    def tdx_support(self) -> TdxSupport:
        """Whether this libvirt can start TDs, as it says itself (domain capabilities)."""
        number = self._call("ask for libvirt's version", self._connection.getLibVersion)
        version = (number // 1_000_000, number // 1_000 % 1_000)
        text = self._call(
            "ask for domain capabilities",
            lambda: self._connection.getDomainCapabilities(None, "x86_64", "q35", "kvm"),
        )
        return tdx_support(text, version)

    def console(self, name: str, read: Callable[[], bytes], write: Callable[[bytes], None]) -> None:
        """Join a machine's console with `read`, which blocks and returns b"" at its end, and `write`.

        Returns when either side ends. The console is taken over from whoever else has it.
        """
        stream = self._call("open a stream", self._connection.newStream)
        self._act(
            name,
            "open the console of",
            lambda domain: domain.openConsole(None, stream, binding.CONSOLE_FORCE),
        )
        ended = threading.Event()

        def follow() -> None:
            with contextlib.suppress(self._library.libvirtError):
                while data := stream.recv(1 << 16):
                    write(data)
            ended.set()

        def type_in() -> None:
            with contextlib.suppress(self._library.libvirtError):
                while data := read():
                    stream.send(data)
            ended.set()

        for work in (follow, type_in):
            threading.Thread(target=work, daemon=True).start()
        try:
            ended.wait()
        finally:
            with contextlib.suppress(TdxError):
                self._call("close the console", stream.abort)

    @contextlib.contextmanager
    def events(self, name: str | None = None) -> Iterator[Callable[[float], DomainEvent | None]]:
        """Watch one machine, or all: what is given returns the next event, or None after that many seconds.

        Events from the beginning of the block on are kept, in order.
        """
        seen: queue.SimpleQueue[DomainEvent] = queue.SimpleQueue()

        def keep(domain: Domain, event: str, detail: str = "") -> None:
            if name is None or domain.name() == name:
                seen.put(DomainEvent(domain.name(), event, detail))

        def on_lifecycle(_: object, domain: Domain, event: int, detail: int, __: object) -> None:
            keep(domain, *_event(event, detail))

        def on_reboot(_: object, domain: Domain, __: object) -> None:
            keep(domain, "rebooted")

        def watch(kind: int, callback: Callable[..., None]) -> int:
            register = self._connection.domainEventRegisterAny
            return self._call("watch events", lambda: register(None, kind, callback, None))

        def unwatch(number: int) -> None:
            with contextlib.suppress(TdxError):
                self._call("stop watching", lambda: self._connection.domainEventDeregisterAny(number))

        def following(seconds: float) -> DomainEvent | None:
            try:
                return seen.get(timeout=seconds)
            except queue.Empty:
                return None

        with contextlib.ExitStack() as watched:
            watched.callback(unwatch, watch(binding.EVENT_LIFECYCLE, on_lifecycle))
            watched.callback(unwatch, watch(binding.EVENT_REBOOT, on_reboot))
            yield following

    def _all_names(self) -> list[str]:
        return [domain.name() for domain in self._connection.listAllDomains()]

    def _own_names(self) -> list[str]:
        return sorted(domain.name() for domain in self._connection.listAllDomains() if self._is_ours(domain))

    def _is_ours(self, domain: Domain) -> bool:
        try:
            domain.metadata(binding.METADATA_ELEMENT, METADATA)
        except self._library.libvirtError:
            return False
        return True

    def _find(self, name: str) -> Domain:
        try:
            domain = self._connection.lookupByName(name)
        except self._library.libvirtError as error:
            if code(error) != Failure.NO_DOMAIN:
                raise
            known = ", ".join(self._own_names()) or "none"
            raise UsageError(
                f"{self._uri} has no machine {name!r}", hint=f"machines there: {known}"
            ) from None
        if not self._is_ours(domain):
            raise UsageError(
                f"the domain {name!r} of {self._uri} was not made by tdx", hint=f"use virsh -c {self._uri}"
            )
        return domain

    def _addresses(self, domain: Domain) -> list[str]:
        found: list[str] = []
        for source in binding.ADDRESS_SOURCES:
            with contextlib.suppress(self._library.libvirtError):
                for interface in (domain.interfaceAddresses(source) or {}).values():
                    addresses = cast(list[dict[str, str]], interface.get("addrs") or [])
                    found += [address["addr"] for address in addresses]
        own = ("127.", "::1", "fe80:")
        return [address for address in dict.fromkeys(found) if not address.startswith(own)]

    def _ask_to_end(self, domain: Domain, how: int) -> str:
        """What the agent has to say against it, which may be no more than that it went with its guest."""
        try:
            domain.shutdownFlags(how)
        except self._library.libvirtError as error:
            if code(error) != Failure.AGENT_UNRESPONSIVE:
                raise
            return f": {words(error)}"
        return ""

    def _act(self, name: str, verb: str, act: Callable[[Domain], Result]) -> Result:
        return self._call(f"{verb} {name!r}", lambda: act(self._find(name)))

    def _call(self, what: str, call: Callable[[], Result]) -> Result:
        return bounded(self._library, f"{self._uri} to {what}", call, self._seconds)


@contextlib.contextmanager
def connect(uri: str, *, seconds: float = CALL_SECONDS, library: Binding | None = None) -> Iterator[Libvirt]:
    """Connect to the libvirt at `uri` (libvirt.org/uri.html), each call to which may take `seconds`.

    `library` stands in for libvirt-python. Raises `UnavailableError` where that is missing or none answers.
    """
    api = library or binding.load()
    serve_events(api)
    connection = bounded(api, f"{uri} to connect", lambda: api.open(uri), seconds)
    try:
        # A driver inside this process has no keepalive.
        with contextlib.suppress(api.libvirtError):
            connection.setKeepAlive(*KEEPALIVE)
        yield Libvirt(api, connection, uri, seconds)
    finally:
        with contextlib.suppress(TdxError):
            bounded(api, f"{uri} to disconnect", connection.close, seconds)


def _event(event: int, detail: int) -> tuple[str, str]:
    if not 0 <= event < len(_EVENTS):
        return f"event-{event}", str(detail)
    word, details = _EVENTS[event]
    return word, details[detail] if 0 <= detail < len(details) else str(detail)
