from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tdxstack.errors import CommandError, UnavailableError
from tdxstack.run import command_line, converse, run, run_async, start, stream

PYTHON = sys.executable


def test_output_and_input_pass_through() -> None:
    done = run([PYTHON, "-c", "print(input()[::-1])"], input=b"abc\n")
    assert (done.returncode, done.stdout) == (0, b"cba\n")


def test_failure_names_program_code_and_last_output() -> None:
    with pytest.raises(CommandError, match=r"failed with exit code 7: last words") as caught:
        run([PYTHON, "-c", "import sys; sys.stderr.write('last words'); sys.exit(7)"])
    assert "the command was" in caught.value.hint


def test_unchecked_failure_is_returned() -> None:
    assert run([PYTHON, "-c", "raise SystemExit(3)"], check=False).returncode == 3


def test_missing_program_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match="no-such-program was not found"):
        run(["no-such-program"])


def test_overrun_ends_the_whole_process_group(tmp_path: Path) -> None:
    pids = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {pids}; wait"
    with pytest.raises(CommandError, match=r"did not end within 0.5 s"):
        run(["sh", "-c", script], timeout=0.5)
    _assert_gone(int(pids.read_text()))


def test_children_that_a_program_leaves_behind_are_ended(tmp_path: Path) -> None:
    pids = tmp_path / "pid"
    run(["sh", "-c", f"sleep 60 >/dev/null 2>&1 & echo $! > {pids}"])
    _assert_gone(int(pids.read_text()))


@pytest.mark.parametrize("descriptor", [1, 2])
def test_program_that_prints_without_end_is_ended(descriptor: int) -> None:
    with pytest.raises(CommandError, match="printed more than 100000 bytes"):
        run(["sh", "-c", f"exec yes >&{descriptor}"], max_output=100_000, timeout=30)


def test_output_that_a_terminal_would_obey_is_not_repeated() -> None:
    with pytest.raises(CommandError) as caught:
        run(["sh", "-c", "printf '\\033]0;owned\\007words' >&2; exit 1"])
    assert "\x1b" not in caught.value.message
    assert caught.value.message.endswith(": words")


def test_stream_logs_and_reports_each_line(tmp_path: Path) -> None:
    lines: list[str] = []
    log = tmp_path / "log"
    stream([PYTHON, "-c", "print(1); print(2)"], log=log, on_line=lines.append)
    assert lines == ["1", "2"]
    assert log.read_text().endswith("1\n2\n")


def test_stream_failure_carries_the_tail(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="the end"):
        stream([PYTHON, "-c", "print('the end'); raise SystemExit(1)"], log=tmp_path / "log")


def test_stream_overrun_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"did not end within 0.3 s"):
        stream(["sleep", "9"], log=tmp_path / "log", timeout=0.3)


def test_started_program_runs_on_and_logs(tmp_path: Path) -> None:
    log = tmp_path / "log"
    start([PYTHON, "-c", "print('here')"], log=log)
    deadline = time.monotonic() + 10
    while log.read_text() != "here\n":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_command_line_quotes() -> None:
    assert command_line(["echo", "a b", Path("/x")]) == "echo 'a b' /x"


def _assert_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.02)
        os.sched_yield()


def test_converses_by_lines_and_ends_the_program() -> None:
    script = "import sys\nfor line in sys.stdin: print('noise'); print('OK', line.strip()[::-1], flush=True)"
    with converse([sys.executable, "-c", script], timeout=20) as conversation:
        assert conversation.ask("abc", "OK") == "cba"
        assert conversation.ask("12", "OK") == "21"


def test_a_program_that_ends_in_a_conversation_is_an_error() -> None:
    script = "import sys; print('no such machine', file=sys.stderr); sys.exit(1)"
    with (
        pytest.raises(CommandError, match="exit code 1: no such machine"),
        converse([sys.executable, "-c", script], timeout=20) as conversation,
    ):
        conversation.ask("x", "OK")


def test_a_conversation_has_an_end() -> None:
    with (
        pytest.raises(CommandError, match="ended by signal"),
        converse([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.3) as conversation,
    ):
        conversation.ask("x", "OK")


def test_awaited_program_gives_its_output() -> None:
    done = asyncio.run(run_async([PYTHON, "-c", "print(input()[::-1])"], input=b"abc\n"))
    assert (done.returncode, done.stdout) == (0, b"cba\n")


def test_awaited_programs_run_side_by_side() -> None:
    """More than asyncio has threads on any machine of ours."""

    async def all_of_them() -> None:
        await asyncio.gather(*(run_async(["sleep", "0.5"], timeout=20) for _ in range(40)))

    began = time.monotonic()
    asyncio.run(all_of_them())
    assert time.monotonic() - began < 10


def test_cancelled_wait_ends_the_whole_process_group(tmp_path: Path) -> None:
    pids = tmp_path / "pid"

    async def give_up() -> None:
        task = asyncio.create_task(run_async(["sh", "-c", f"sleep 60 & echo $! > {pids}; wait"]))
        while not (pids.exists() and pids.read_text()):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    _assert_gone(int(pids.read_text()))


LEASHED = textwrap.dedent(
    """\
    import sys, time
    from pathlib import Path
    from tdxstack.run import Leash, start
    leash = Leash()
    pid = start(["sleep", "60"], log=Path("/dev/null"), pass_fds=[leash.descriptor])
    leash.tie(pid)
    if sys.argv[1] == "cut":
        leash.cut()
    if sys.argv[1] == "released":
        leash.release()
    print(pid, flush=True)
    time.sleep(60)
    """
)


@pytest.mark.parametrize("how", ["killed", "cut"])
def test_leashed_program_ends_with_its_owner(how: str) -> None:
    owner = subprocess.Popen([PYTHON, "-c", LEASHED, how], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    try:
        pid = int(owner.stdout.readline())
        if how == "killed":
            assert Path(f"/proc/{pid}").exists()
            owner.kill()
        _assert_gone(pid)
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()


def test_released_program_outlives_its_owner() -> None:
    owner = subprocess.Popen([PYTHON, "-c", LEASHED, "released"], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    owner.stdout.close()
    try:
        time.sleep(0.2)
        assert Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep")
    finally:
        os.kill(pid, 9)
