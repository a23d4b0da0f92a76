from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tdxstack.abi.event_log import Event
from tdxstack.cli import tdx
from tdxstack.cli.compare_page import render_page
from tdxstack.errors import UsageError
from tdxstack.files import Directories
from tdxstack.machine.store import MachineState, MachineStore
from tdxstack.measurement.comparison.compare import compare
from tdxstack.measurement.reference import Reference, ReferenceEvent
from tests.recorded_boot import pki_in, synthetic_boot, with_events
from tests.unit.measurement.comparison import logs
from tests.unit.measurement.comparison.logs import GIB, PLAIN, side, with_one
from tests.unit.measurement.comparison.test_reading import LOG, TIME

OTHER = LOG.replace(b"kernel_cmdline: /vmlinuz root=/dev/vda", b"kernel_cmdline: /vmlinuz root=/dev/vdb")
HOSTILE = "<script>alert(1)</script><img src=x onerror=y>\x1b[31m"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    (tmp_path / "a").write_bytes(LOG)
    (tmp_path / "b").write_bytes(OTHER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> int:
    return int(tdx.main(["compare", *arguments], standalone_mode=False) or 0)


def test_equal_files(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("a", "a") == 0
    assert "equal, as far as both sides say: RTMR0, RTMR1, RTMR2" in capsys.readouterr().out


def test_different_files(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "b").write_bytes(synthetic_log())
    assert run("a", "b", "--json", "--html", "page.html") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["registers"]["rtmr0"]["equal"] is False
    assert document["registers"]["mrtd"] == {"a": None, "b": None, "equal": None}
    assert [cause["id"] for cause in document["causes"]] == ["memory-size"]
    assert document["unexplained"] == {"registers": [], "differences": []}
    assert "memory-size" in (home / "page.html").read_text()
    assert run("a", "b") == 1
    assert "2048 MiB and 4096 MiB" in capsys.readouterr().out


def test_a_register_of_which_only_events_are_known(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a portable reference has it: some of them may be anything."""
    for name, open_ in (("b", (0, 2)), ("c", ())):
        own = [event for event in PLAIN if event.mr_index == 1]
        events = tuple(
            ReferenceEvent(event.type, None if number in open_ else event.digest(), "x")
            for number, event in enumerate(own)
        )
        kept = events if name == "b" else events[:-1]
        (home / name).write_bytes(Reference("r", {}, {"rtmr0": kept}).to_json())
    assert run("a", "b") == 0
    assert f"{len(own) - 2} events equal, 2 not known" in capsys.readouterr().out
    assert run("a", "c") == 1
    assert re.search("RTMR0 .* differs", capsys.readouterr().out)


def test_what_is_neither_a_machine_nor_a_file(home: Path) -> None:
    with pytest.raises(UsageError, match="'c' is neither a machine nor a file"):
        run("a", "c")


def synthetic_log() -> bytes:
    old, new = PLAIN[0].digest(), logs.hob(4 * GIB).digest()
    assert old and new
    return LOG.replace(old, new)


def test_machines_by_name(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = MachineStore(Directories.of_user(os.environ, os.getuid()))
    recorded = synthetic_boot(pki_in(home / "pki", TIME), TIME)
    for name, line in (("one", "console=ttyS0"), ("two", "console=ttyS0 quiet")):
        files = store.prepare(name)
        changed = with_events(recorded, partial(with_command_line, line))
        files.evidence.write_text(changed.evidence.to_json())
        files.console_log.write_text(f"[    0.000000] Command line: {line}\r\n")
        store.save(MachineState(name, "emulated", True, 1, 1, "", ["qemu", "-smp", "2", "-m", "2048M"]))
    assert run("one", "two", "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["emulated"] is True
    assert document["a"]["kind"] == "machine"
    sentences = {cause["id"]: cause["sentence"] for cause in document["causes"]}
    assert sentences["kernel-command-line"] == "The kernel command lines differ: +quiet."


def with_command_line(line: str, events: tuple[Event, ...]) -> tuple[Event, ...]:
    return (*events, logs.command_line(line))


def test_the_page_is_whole_and_says_nothing_that_the_evidence_made_up() -> None:
    events = with_one(PLAIN[16], logs.boot_loader(HOSTILE.encode()))
    a = replace(side(HOSTILE, PLAIN), emulated=True)
    page = render_page(compare(a, side("b", events)))
    parser = Strict()
    parser.feed(page)
    parser.close()
    assert not parser.open
    assert not parser.seen & {"script", "img", "link", "a"}
    assert "http" not in page
    assert "\x1b" not in page
    assert "emulated, not protected" in page
    assert page.count("only in B") + page.count("differs") > 1


class Strict(HTMLParser):
    """Every tag is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
