"""One service per user, as a process: started when needed, gone when not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tdxstack.abi.quote import Quote
from tdxstack.errors import CommandError, UnavailableError
from tdxstack.files import is_locked, lock
from tdxstack.quoting import client
from tdxstack.quoting.__main__ import limited, main
from tdxstack.quoting.pki import open_pki
from tdxstack.quoting.service import Service, ensure_running

from .conftest import make_report


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


def process_of(service: Service) -> int:
    """Who listens on the service's socket."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as peer:
        peer.connect(str(service.socket))
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[:4], sys.byteorder)


@pytest.fixture
def home(socket_dir: Path) -> Path:
    return socket_dir


@pytest.fixture
def service(home: Path) -> Iterator[Service]:
    """The service of a user of its own; whatever runs at the end is ended."""
    service = Service.of_user(home / "run")
    yield service
    if is_locked(service.instance_lock):
        os.kill(process_of(service), signal.SIGTERM)
        wait_for(lambda: not is_locked(service.instance_lock))


def start(home: Path) -> Path:
    return ensure_running(home / "run", home / "pki", home / "log")


def test_it_is_started_once_and_found_again(home: Path, service: Service) -> None:
    with service.use("one"):
        assert start(home) == service.socket
        process = process_of(service)
        assert start(home) == service.socket
        assert process_of(service) == process
        pki = open_pki(home / "pki", datetime.now(UTC))
        quote = client.get_quote(service.socket, make_report(pki).to_bytes())
        assert Quote.parse(quote).header.version == 4
    assert "emulated" in (home / "log").read_text()


def test_its_files_are_for_the_owner_only(home: Path, service: Service) -> None:
    with service.use("one"):
        start(home)
        for directory in (home / "run", home / "pki", service.users):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        for file in (service.socket, service.instance_lock, service.users / "one"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_many_at_once_start_one(home: Path, service: Service) -> None:
    with service.use("one"), ThreadPoolExecutor(6) as pool:
        assert set(pool.map(lambda _: start(home), range(6))) == {service.socket}
        assert (home / "log").read_text().count("serving on") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(home: Path, service: Service, number: signal.Signals) -> None:
    with service.use("one"):
        start(home)
        os.kill(process_of(service), number)
        wait_for(lambda: not is_locked(service.instance_lock))
        assert not service.socket.exists()
        assert (home / "log").read_text().rstrip().endswith("ended")


def test_one_that_was_killed_is_replaced(home: Path, service: Service) -> None:
    with service.use("one"):
        start(home)
        process = process_of(service)
        os.kill(process, signal.SIGKILL)
        wait_for(lambda: not is_locked(service.instance_lock))
        assert service.socket.exists(), "left over"
        start(home)
        assert process_of(service) != process


def test_one_that_hangs_is_named_and_not_doubled(home: Path, service: Service) -> None:
    (home / "run").mkdir(mode=0o700)
    with lock(service.instance_lock), pytest.raises(UnavailableError, match="does not answer") as caught:
        ensure_running(home / "run", home / "pki", home / "log", timeout=0.2)
    assert str(service.instance_lock) in caught.value.hint


def test_what_keeps_it_from_starting_is_told(home: Path, service: Service) -> None:
    (home / "pki").mkdir()
    (home / "pki").chmod(0o755)
    (home / "pki" / "something").touch()
    with pytest.raises(CommandError, match="others can reach") as caught:
        start(home)
    assert str(home / "log") in caught.value.hint
    assert not is_locked(service.instance_lock)


def test_a_second_instance_does_not_start(
    home: Path, service: Service, capfd: pytest.CaptureFixture[str]
) -> None:
    with service.use("one"):
        start(home)
        words = ["--pki-dir", str(home / "pki"), "--socket", str(service.socket)]
        assert main(words) == 3
        assert "is in use by another process" in capfd.readouterr().err
        assert client.get_platform_info(service.socket).qe_isvsvn == 7


def test_a_hostile_guest_cannot_fill_the_disk_with_refusals() -> None:
    lines: list[str] = []
    log = limited(lines.append, 3)
    for number in range(10):
        log(str(number))
    assert lines == ["0", "1", "no more lines are logged"]


# --- the end of it


def unused(service: Service, *, grace: float) -> None:
    asyncio.run(asyncio.wait_for(service.unused(poll=0.01, grace=grace), 60))


def test_it_ends_when_nobody_came_in_the_grace_time(service: Service) -> None:
    begun = time.monotonic()
    unused(service, grace=0.1)
    assert time.monotonic() - begun >= 0.1


def test_it_stays_while_somebody_needs_it_and_for_the_grace_time_after(service: Service) -> None:
    users = contextlib.ExitStack()
    users.enter_context(service.use("one"))
    service.socket.touch()

    async def watch() -> float:
        watching = asyncio.create_task(service.unused(poll=0.01, grace=0.1))
        await asyncio.sleep(0.3)
        assert not watching.done() and service.socket.exists()
        left = time.monotonic()
        users.close()
        await asyncio.wait_for(watching, 60)
        return time.monotonic() - left

    assert asyncio.run(watch()) >= 0.09
    assert not service.socket.exists()


def test_a_program_that_inherits_the_descriptor_needs_it_until_it_ends(service: Service) -> None:
    with service.use("one") as descriptor:
        program = subprocess.Popen(["sleep", "60"], pass_fds=(descriptor,))
    try:
        assert service.in_use()
    finally:
        program.kill()
        program.wait()
    assert not service.in_use()


def test_it_does_not_go_while_one_is_being_started(service: Service) -> None:
    service.socket.parent.mkdir(mode=0o700)
    service.socket.touch()
    with lock(service.start_lock), pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(service.unused(poll=0.01, grace=0.0), 0.2))
    assert service.socket.exists()


def test_a_user_that_comes_at_the_last_moment_is_seen(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the poll and the decision a TD takes its lock: the look under the start lock sees it."""
    service.socket.parent.mkdir(mode=0o700)
    service.socket.touch()
    answers = iter([False, True])
    monkeypatch.setattr(Service, "in_use", lambda _self: next(answers, True))
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(service.unused(poll=0.01, grace=0.0), 0.2))
    assert service.socket.exists()


def test_looking_does_not_take_the_lock_away(service: Service) -> None:
    with service.use("one"):
        assert service.in_use()
        assert service.in_use()
