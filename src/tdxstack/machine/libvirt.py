"""Machines that libvirt runs, on any host that a libvirt URI names.

Every call has a time-out, and an awaited twin: `libvirt.start("td")`, `await libvirt.start.aio("td")`.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

from tdxstack.errors import CommandError, TdxError, UnavailableError, UsageError
from tdxstack.machine import libvirt_binding as binding
from tdxstack.machine import libvirt_volumes
from tdxstack.machine.control import ENDED, RUNNING
from tdxstack.machine.libvirt_binding import Binding, Connection, Domain, DomainState, Failure
from tdxstack.machine.libvirt_calls import Calls, code, element, serve_events, words
from tdxstack.machine.libvirt_events import Events
from tdxstack.machine.libvirt_support import TdxSupport, tdx_support
from tdxstack.machine.libvirt_xml import METADATA, DomainPlacement, build_domain_xml
from tdxstack.machine.spec import MachineSpec
from tdxstack.machine.twin import twin, wait

CALL_SECONDS = 60.0
POLL_SECONDS = 0.2
CONSOLE_READ = 1 << 16
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


class Mode(enum.Enum):
    """How a guest is asked to stop or to start anew, or that it is not asked."""

    ACPI = "acpi"
    AGENT = "agent"
    FORCE = "force"


class Libvirt:
    """A connection to a libvirt; use `connect`. Domains that tdx has not defined are not touched."""

    def __init__(self, calls: Calls, connection: Connection) -> None:
        self._calls = calls
        self._connection = connection
        self._library = calls.library
        self._uri = calls.uri

    @twin
    async def create(self, spec: MachineSpec, placement: DomainPlacement) -> None:
        """Define the machine; it is not started. Raises as `build_domain_xml` and `define` do."""
        await self.define.aio(build_domain_xml(spec, placement))

    @twin
    async def refuse_taken(self, name: str) -> None:
        """Raise `UsageError` where there is a domain of that name, whoever made it."""
        if name in await self._call("list domains", self._all_names):
            raise UsageError(
                f"{self._uri} has a domain {name!r} already", hint="choose another name, or remove it first"
            )

    @twin
    async def define(self, xml: str) -> None:
        """Make a machine of a domain's XML, which libvirt checks against its schema; it is not started.

        Raises `UsageError` where there is a domain of that name, `UnavailableError` with libvirt's own words
        where it or its QEMU cannot run such a machine.
        """
        name = element(xml).findtext("name", "")
        await self.refuse_taken.aio(name)
        flags = binding.DEFINE_VALIDATE
        await self._call(f"define {name!r}", lambda: self._connection.defineXMLFlags(xml, flags))

    @twin
    async def start(self, name: str, *, autodestroy: bool = False, paused: bool = False) -> None:
        """Start a machine. `autodestroy` ends it when this connection ends, in whatever way."""
        flags = autodestroy * binding.START_AUTODESTROY | paused * binding.START_PAUSED
        await self._act(name, "start", lambda domain: domain.createWithFlags(flags))

    @twin
    async def state(self, name: str) -> str:
        """`ended`, `running`, `paused`, `shutdown`, `suspended` or `guest-panicked`."""
        number = await self._act(name, "ask for the state of", lambda domain: domain.state()[0])
        return _STATES.get(number, "unknown")

    @twin
    async def suspend(self, name: str) -> None:
        """Halt the vCPUs; memory stays."""
        await self._act(name, "suspend", lambda domain: domain.suspend())

    @twin
    async def resume(self, name: str) -> None:
        """Let a halted machine go on."""
        await self._act(name, "resume", lambda domain: domain.resume())

    @twin
    async def shutdown(self, name: str, mode: Mode = Mode.ACPI, *, timeout: float = CALL_SECONDS) -> None:
        """Stop a machine and wait until it has ended, at most `timeout` seconds.

        Raises `CommandError` where a guest that was asked has not ended by then.
        """
        if mode is Mode.FORCE:
            await self._act(name, "end", lambda domain: domain.destroy())
            return
        how = binding.BY_ACPI if mode is Mode.ACPI else binding.BY_AGENT
        remark = await self._act(name, "shut down", lambda domain: self._ask_to_end(domain, how))
        deadline = time.monotonic() + timeout
        while await self.state.aio(name) != ENDED:
            if time.monotonic() > deadline:
                raise CommandError(
                    f"machine {name!r} did not end within {timeout:g} s ({mode.value}){remark}",
                    hint="give it more time, or end it by force",
                )
            await asyncio.sleep(POLL_SECONDS)

    @twin
    async def reboot(self, name: str, mode: Mode = Mode.ACPI) -> None:
        """Tell a guest to start anew, or reset it (`force`), which loses what it has not written yet.

        An event `rebooted` says when it has. A TD on QEMU before 11.0 cannot, and ends.
        """
        if mode is Mode.FORCE:
            await self._act(name, "reset", lambda domain: domain.reset())
            return
        how = binding.BY_ACPI if mode is Mode.ACPI else binding.BY_AGENT
        await self._act(name, "reboot", lambda domain: domain.reboot(how))

    @twin
    async def undefine(self, name: str) -> None:
        """Forget a machine that has ended, with its UEFI variables; its disks stay.

        Raises `UnavailableError` where it runs: libvirt would let it run on without a definition.
        """
        if await self.state.aio(name) != ENDED:
            raise UnavailableError(f"machine {name!r} is running", hint="stop it first")
        await self._act(
            name, "undefine", lambda domain: domain.undefineFlags(binding.UNDEFINE_MANAGED_SAVE_AND_NVRAM)
        )

    @twin
    async def make_overlay(self, base: Path, format_: str, name: str) -> Path:
        """Make a qcow2 volume `name` that reads from `base` and takes all writes itself; return its path.

        Both are libvirt's host's; `base`, an image in `format_`, must lie in one of its storage pools, and
        the overlay lies beside it. Raises `UnavailableError` where it does not.
        """

        def make() -> Path:
            volume = libvirt_volumes.find(self._library, self._connection, base)
            xml = libvirt_volumes.overlay_xml(base, format_, name, volume.info()[1])
            return Path(volume.storagePoolLookupByVolume().createXML(xml, 0).path())

        return await self._call(f"make an overlay of {base}", make)

    @twin
    async def remove_overlay(self, path: Path) -> None:
        """Delete a volume."""
        find = libvirt_volumes.find
        await self._call(f"delete {path}", lambda: find(self._library, self._connection, path).delete(0))

    @twin
    async def names(self) -> list[str]:
        """The machines that tdx has defined on that host, running or not."""
        return await self._call("list domains", self._own_names)

    @twin
    async def xml(self, name: str) -> str:
        """The definition, with what libvirt has added to it."""
        return await self._act(name, "describe", lambda domain: domain.XMLDesc())

    @twin
    async def addresses(self, name: str) -> list[str]:
        """The guest's IP addresses as a DHCP server, its agent or the host's ARP table knows them."""
        return await self._act(name, "ask for the addresses of", self._addresses)

    @twin
    async def ports(self, name: str) -> dict[int, int]:
        """The host's TCP ports that are forwarded to the guest's: {guest port: host port}."""
        found = {}
        for forward in element(await self.xml.aio(name)).iterfind(
            "devices/interface/portForward[@proto='tcp']/range"
        ):
            start = int(forward.get("start", "0"))
            found[int(forward.get("to", start))] = start
        return found

    @twin
    async def tdx_support(self) -> TdxSupport:
        """Whether this libvirt can start TDs, as it says itself (domain capabilities)."""
        number = await self._call("ask for libvirt's version", self._connection.getLibVersion)
        version = (number // 1_000_000, number // 1_000 % 1_000)
        text = await self._call(
            "ask for domain capabilities",
            lambda: self._connection.getDomainCapabilities(None, "x86_64", "q35", "kvm"),
        )
        return tdx_support(text, version)

    @twin
    async def console(self, name: str, read: Callable[[], bytes], write: Callable[[bytes], None]) -> None:
        """Join a machine's console with `read`, which blocks and returns b"" at its end, and `write`.

        Returns when either side ends. The console is taken over from whoever else has it.
        """
        stream = await self._call("open a stream", self._connection.newStream)
        await self._act(
            name,
            "open the console of",
            lambda domain: domain.openConsole(None, stream, binding.CONSOLE_FORCE),
        )
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def until_one_ends(work: Callable[[], None]) -> None:
            # A console or a terminal that goes away ends it as well.
            with contextlib.suppress(self._library.libvirtError, OSError):
                work()
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(ended.set)

        def follow() -> None:
            while data := stream.recv(CONSOLE_READ):
                write(data)

        def type_in() -> None:
            while data := read():
                stream.send(data)

        for work in (follow, type_in):
            threading.Thread(target=until_one_ends, args=(work,), daemon=True).start()
        try:
            await ended.wait()
        finally:
            with contextlib.suppress(TdxError):
                await self._call("close the console", stream.abort)

    def events(self, name: str | None = None) -> Events:
        """The events of one machine, or of all, from the beginning of a `with` or `async with` block on."""
        return Events(self._calls, self._connection, name)

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

    async def _act(self, name: str, verb: str, act: Callable[[Domain], Result]) -> Result:
        return await self._call(f"{verb} {name!r}", lambda: act(self._find(name)))

    async def _call(self, what: str, call: Callable[[], Result]) -> Result:
        return await self._calls.call(what, call)


class connect:
    """A connection to the libvirt at `uri` (libvirt.org/uri.html) for a `with` block, or `async with`.

    Each call may take `seconds`. `library` stands in for libvirt-python. Raises `UnavailableError` where that
    is missing or none answers.
    """

    def __init__(self, uri: str, *, seconds: float = CALL_SECONDS, library: Binding | None = None) -> None:
        self._calls = Calls(library or binding.load(), uri, seconds)
        self._connection: Connection | None = None

    def __enter__(self) -> Libvirt:
        return wait(self.__aenter__, "connect")

    def __exit__(self, *_: object) -> None:
        wait(self.__aexit__, "connect")

    async def __aenter__(self) -> Libvirt:
        serve_events(self._calls.library)
        self._connection = connection = await self._calls.call("connect", self._open)
        return Libvirt(self._calls, connection)

    async def __aexit__(self, *_: object) -> None:
        connection, self._connection = self._connection, None
        with contextlib.suppress(TdxError):
            if connection is not None:
                await self._calls.call("disconnect", connection.close)

    def _open(self) -> Connection:
        connection = self._calls.library.open(self._calls.uri)
        # A driver inside this process has no keepalive.
        with contextlib.suppress(self._calls.library.libvirtError):
            connection.setKeepAlive(*KEEPALIVE)
        return connection
