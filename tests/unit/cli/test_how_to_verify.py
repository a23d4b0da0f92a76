"""The pages on verifying quotes: their commands and policies, as they are written there."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tdxstack.abi.td_body import TdBody10
from tdxstack.verification.policy import AllOf, AnyPolicy, Policy, each
from tdxstack.verification.policy_file import parse_policy
from tdxstack.verification.quote import QuoteResult, verify_quote
from tests.recorded_boot import NOW, Keys, Recorded, signed
from tests.unit.cli.verification_files import Files, call

DOCS = Path(__file__).parents[3] / "docs"
HOW_TO = (DOCS / "how-to/verify-a-quote.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


POLICIES = blocks(HOW_TO, "yaml") + blocks((DOCS / "reference/policy.md").read_text(), "yaml")
COMMANDS = [
    line
    for block in blocks(HOW_TO, "sh")
    for line in block.splitlines()
    if line.startswith(("tdx quote", "openssl"))
]


def test_the_commands_do_what_the_page_says(
    capsys: pytest.CaptureFixture[str],
    files: Files,
    boot: Recorded,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In order, and with what an emulated quote needs besides."""
    directory = files.quote.parent
    monkeypatch.chdir(directory)
    (directory / "early.json").write_bytes(files.collateral.read_bytes())
    (directory / "policy.yaml").write_text("{}")
    (directory / "quotes").mkdir()
    (directory / "quotes/one").write_bytes(files.quote.read_bytes())
    values = {"$report_data": boot.quote.body.report_data.hex(), "$nonce": files.nonce}
    consent = ["--trust-anchor", str(files.root), "--allow", "emulated"]
    assert len(COMMANDS) >= 11
    for command in COMMANDS:
        words = [values.get(word, word) for word in shlex.split(command)]
        if words[0] == "openssl":
            subprocess.run(command, shell=True, check=True, capture_output=True)
            continue
        at = [] if "--at" in words else ["--at", files.at]
        if words[2] == "verify":
            words += [*consent, *at]
        elif words[2] == "token":
            words += at
        done = call(capsys, *words[1:])
        # The token says that emulated evidence is contraindicated.
        assert done.code == (1 if words[2] == "token" else 0), (command, done)


def without_platform(policy: AnyPolicy) -> AnyPolicy:
    """What an example says of FMSPC and TCB evaluation does not fit the emulated platform."""
    return each(
        policy, lambda one: replace(one, allow_emulated=True, fmspcs=None, minimum_evaluation_number=0)
    )


def verify(boot: Recorded, keys: Keys, policy: AnyPolicy, **body: Any) -> QuoteResult:
    assert isinstance(boot.quote.body, TdBody10)
    quote = signed(replace(boot.quote, body=replace(boot.quote.body, **body)), keys)
    return verify_quote(
        quote, boot.collateral, time=NOW, anchors=boot.anchors, policy=without_platform(policy)
    )


def leaves(policy: AnyPolicy) -> list[Policy]:
    return (
        [policy] if isinstance(policy, Policy) else [leaf for one in policy.members for leaf in leaves(one)]
    )


@pytest.mark.parametrize("text", POLICIES, ids=range(len(POLICIES)))
def test_each_policy_accepts_what_it_describes_and_nothing_else(
    boot: Recorded, keys: Keys, text: str
) -> None:
    policy = parse_policy(text.encode())
    assert not isinstance(policy, AllOf)
    for leaf in leaves(policy):
        registers = {name: values[-1] for name, values in leaf.expected.items()}
        assert verify(boot, keys, policy, **registers).accepted
        for name in registers:
            assert not verify(boot, keys, policy, **(registers | {name: b"\x01" * 48})).accepted
    assert not verify(boot, keys, policy, td_attributes=1).accepted


def test_the_python_of_the_page_runs(files: Files, boot: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands there it trusts Intel alone, and so rejects what is emulated."""
    monkeypatch.chdir(files.quote.parent)
    subprocess.run(
        "openssl genpkey -algorithm ed25519 -out key.pem", shell=True, check=True, capture_output=True
    )
    Path("policy.yaml").write_text("{}")
    page = (DOCS / "how-to/use-from-python.md").read_text()
    *_, verifying, signing, replaying = blocks(page, "python")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(verifying + signing, {})
    assert printed.getvalue().splitlines()[0].startswith("rejected ")
    status, token = printed.getvalue().splitlines()[-1].split()
    assert status == "contraindicated" and token.count(".") == 2
    exec(replaying, {})
