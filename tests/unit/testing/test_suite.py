"""The acceptance suite's runner, on cases of its own that start nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tdxstack.errors import CommandError, UsageError
from tdxstack.platform import Platform, PlatformChoice
from tdxstack.testing import suite
from tdxstack.testing.suite import Case, list_cases, run_cases
from tdxstack.verification.result import Status

EMULATED = PlatformChoice(Platform.EMULATED, "requested")

CASES = '''
import pytest

def test_right_answer():
    """Is right.

    And more.
    """

def test_wrong_answer():
    print("seen before")
    assert 6 * 7 == 41

@pytest.mark.parametrize("kind", ["td", "efi"])
def test_kinds(kind): ...

@pytest.mark.hardware
def test_msr(): ...

def test_lacks(): pytest.skip("there is no vsock")

@pytest.fixture
def broken():
    yield
    raise ValueError("not removed")

def test_leaves_something(broken): ...
'''


@pytest.fixture
def cases(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A suite in a directory of its own, which a test may change."""
    (tmp_path / "test_some_subject.py").write_text(CASES)
    monkeypatch.setattr(suite, "ACCEPTANCE", tmp_path)
    monkeypatch.delitem(sys.modules, "test_some_subject", raising=False)  # an earlier test's
    return tmp_path


def test_cases_are_listed_with_what_does_not_apply(cases: Path) -> None:
    listed = list_cases(EMULATED)
    assert [case.id for case in listed] == [
        "some-subject.right-answer",
        "some-subject.wrong-answer",
        "some-subject.kinds[td]",
        "some-subject.kinds[efi]",
        "some-subject.msr",
        "some-subject.lacks",
        "some-subject.leaves-something",
    ]
    assert listed[0].about == "Is right."
    assert listed[4].markers == ("hardware",)
    assert listed[4].detail.startswith("needs TDX hardware: ")


def test_every_case_ends_with_a_status_and_a_reason(cases: Path) -> None:
    started: list[str] = []
    ended: list[Case] = []
    result = run_cases(EMULATED, on_start=started.append, on_end=ended.append)
    assert ended == list(result.cases)
    assert started == [case.id for case in ended]
    assert [(case.status, case.detail) for case in ended[:4]] == [
        (Status.OK, ""),
        (Status.FAIL, "assert (6 * 7) == 41"),
        (Status.OK, ""),
        (Status.OK, ""),
    ]
    assert ended[4].status is Status.NOT_APPLICABLE
    assert (ended[5].status, ended[5].detail) == (Status.NOT_APPLICABLE, "there is no vsock")
    assert (ended[6].status, ended[6].detail) == (Status.FAIL, "ValueError: not removed")
    assert "seen before" in ended[1].output
    assert not result.passed
    assert result.count(Status.FAIL) == 2


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (["right"], ["some-subject.right-answer"]),
        (["[td]", "lacks"], ["some-subject.kinds[td]", "some-subject.lacks"]),
    ],
)
def test_a_selection_is_a_part_of_names(cases: Path, selection: list[str], expected: list[str]) -> None:
    result = run_cases(EMULATED, selection)
    assert [case.id for case in result.cases] == expected
    assert result.passed


def test_a_word_that_selects_nothing_is_named(cases: Path) -> None:
    with pytest.raises(UsageError, match="no case has 'nosuch' in its name"):
        run_cases(EMULATED, ["right", "nosuch"])


def test_a_suite_that_cannot_be_read_is_no_success(cases: Path) -> None:
    (cases / "test_broken.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(CommandError, match="No module named 'nothing_of_that_name'"):
        run_cases(EMULATED)


def test_an_interrupt_ends_the_suite_after_its_fixtures(cases: Path) -> None:
    (cases / "test_interrupted.py").write_text(
        "import pytest\n"
        "from pathlib import Path\n"
        "@pytest.fixture(scope='session')\n"
        "def machine():\n"
        "    yield\n"
        "    Path(__file__).with_name('removed').touch()\n"
        "def test_interrupt(machine): raise KeyboardInterrupt\n"
    )
    with pytest.raises(KeyboardInterrupt):
        run_cases(EMULATED, ["interrupt"])
    assert (cases / "removed").exists()


def test_a_junit_file_has_every_case(cases: Path, tmp_path: Path) -> None:
    run_cases(EMULATED, junit=tmp_path / "junit.xml")
    (suite_element,) = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert (suite_element.get("tests"), suite_element.get("skipped")) == ("7", "2")
