from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tdxstack.abi.td_body import TdBody10
from tdxstack.errors import UnavailableError
from tdxstack.quoting.pki import Pki
from tdxstack.workflows.quote_batch import CHUNK, Judge, Line, Terms, Workers, files_below, platforms_of
from tests.recorded_boot import Keys, Recorded, pki_in, signed, synthetic_boot, with_tcb_info

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pki]:
    yield pki_in(tmp_path_factory.mktemp("emulated"), NOW)


@pytest.fixture(scope="module")
def boot(pki: Pki) -> Recorded:
    return synthetic_boot(pki, NOW)


@pytest.fixture(scope="module")
def keys(pki: Pki) -> Keys:
    return Keys.of(pki)


@pytest.fixture
def terms(boot: Recorded) -> Terms:
    return Terms((boot.collateral,), NOW, boot.anchors, boot.policy)


@pytest.fixture
def directory(tmp_path: Path, boot: Recorded, keys: Keys) -> Path:
    """A good quote, one of a debug TD, one with a wrong signature, half a quote, and what is none."""
    quote = boot.quote
    assert isinstance(quote.body, TdBody10)
    debug = signed(replace(quote, body=replace(quote.body, td_attributes=1)), keys)
    forged = replace(quote, body=replace(quote.body, mrtd=bytes(48)))
    directory = tmp_path / "quotes"
    (directory / "below").mkdir(parents=True)
    (directory / "a-good").write_bytes(quote.to_bytes())
    (directory / "below/b-debug").write_bytes(debug.to_bytes())
    (directory / "c-forged").write_bytes(forged.to_bytes())
    (directory / "d-half").write_bytes(quote.to_bytes()[:700])
    (directory / "e-empty").touch()
    os.mkfifo(directory / "f-pipe")
    return directory


def read(path: str) -> bytes:
    return Path(path).read_bytes()


def die(path: str) -> bytes:
    os._exit(9)


def lines(directory: Path, terms: Terms, jobs: int) -> dict[str, Line]:
    with Workers(directory, terms, read, jobs) as workers:
        return {line.name: line for line in workers.verify(files_below(directory))}


@pytest.mark.parametrize("jobs", [1, 3, 9])
def test_every_file_gets_its_line(directory: Path, terms: Terms, jobs: int) -> None:
    found = lines(directory, terms, jobs)
    assert list(found) == ["a-good", "below/b-debug", "c-forged", "d-half", "e-empty", "f-pipe"]
    assert found["a-good"] == Line("a-good", "accepted", "UpToDate", emulated=True)
    assert found["below/b-debug"].failing_checks == ("td.debug",)
    assert found["c-forged"].failing_checks == ("quote.signature",)
    for name, reason in (("d-half", "offset"), ("e-empty", "0 are left"), ("f-pipe", "not a regular file")):
        assert found[name].verdict is None
        assert reason in (found[name].error or "")


def test_lines_come_in_order_whatever_their_number(tmp_path: Path, terms: Terms, boot: Recorded) -> None:
    for number in range(3 * CHUNK + 5):
        (tmp_path / f"{number:04}").write_bytes(boot.evidence.quote if number % 2 else b"")
    names = files_below(tmp_path)
    with Workers(tmp_path, terms, read, 2) as workers:
        found = list(workers.verify(names))
    assert [line.name for line in found] == names
    assert [line.verdict for line in found] == [None if n % 2 == 0 else "accepted" for n in range(len(names))]


def test_a_worker_judges_as_a_verification_alone(directory: Path, terms: Terms) -> None:
    judge = Judge.of(terms)
    found = lines(directory, terms, 2)
    assert {name: judge.line(directory, name, read) for name in found} == found


def test_a_file_that_cannot_be_read_is_one_line(directory: Path, terms: Terms) -> None:
    def refuse(path: str) -> bytes:
        raise PermissionError(13, "Permission denied")

    assert Judge.of(terms).line(directory, "a-good", refuse).error == "Permission denied"
    assert Judge.of(terms).line(directory, "gone", read).error == "gone is not a regular file"


def test_no_process_outlives_the_block(directory: Path, terms: Terms) -> None:
    with pytest.raises(KeyboardInterrupt), Workers(directory, terms, read, 3) as workers:
        next(workers.verify(files_below(directory)))
        processes = list(workers._processes)
        assert all(process.is_alive() for process in processes)
        raise KeyboardInterrupt
    assert not any(process.is_alive() for process in processes)


def test_a_worker_that_is_too_young_for_the_signal_ends_too(
    monkeypatch: pytest.MonkeyPatch, directory: Path, terms: Terms
) -> None:
    """Until it has set its own, a worker has the parent's handler, which may do nothing but take note."""
    late = [0.3]

    def set_late(number: int, handler: Any) -> Any:
        time.sleep(late.pop() if late else 0)
        return real(number, handler)

    real = signal.signal
    noted: list[int] = []
    previous = real(signal.SIGTERM, lambda number, frame: noted.append(number))
    alarm = real(signal.SIGALRM, lambda number, frame: pytest.fail("the worker does not end"))
    monkeypatch.setattr(signal, "signal", set_late)
    signal.alarm(20)
    try:
        with Workers(directory, terms, read, 2):
            pass
    finally:
        signal.alarm(0)
        real(signal.SIGTERM, previous)
        real(signal.SIGALRM, alarm)


def test_a_dead_worker_is_an_error(directory: Path, terms: Terms) -> None:
    with Workers(directory, terms, die, 2) as workers, pytest.raises(UnavailableError, match="has died"):
        list(workers.verify(files_below(directory)))


def test_each_quote_gets_the_collateral_of_its_platform(
    directory: Path, terms: Terms, boot: Recorded, keys: Keys
) -> None:
    other = with_tcb_info(boot, keys, lambda value: value.update(fmspc="00806F050000")).collateral
    both = replace(terms, collateral=(other, boot.collateral))
    assert lines(directory, both, 1)["a-good"].verdict == "accepted"
    neither = replace(terms, collateral=(other, other))
    assert "there is no collateral for TDX FMSPC fe" in (lines(directory, neither, 1)["a-good"].error or "")
    alone = replace(terms, collateral=(other,))
    assert "tcb_info.fmspc" in lines(directory, alone, 1)["a-good"].failing_checks


def test_platforms_are_those_of_the_quotes(directory: Path) -> None:
    (platform,) = platforms_of(directory, files_below(directory), read)
    assert platform.fmspc.startswith(b"\xfe") and platform.ca == "platform"


def test_a_line_has_the_same_keys_whatever_happened() -> None:
    good, bad = Line("a", "accepted").to_json(), Line("b", error="broken").to_json()
    assert good.keys() == bad.keys()
    assert bad["verdict"] is None and bad["failing_checks"] == []
