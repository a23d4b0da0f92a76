from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdxstack.abi.tdreport import TD_ATTRIBUTE_SEPT_VE_DISABLE
from tdxstack.errors import MalformedError
from tdxstack.verification.policy import AllOf, AnyOf, Policy
from tdxstack.verification.policy_file import parse_policy
from tdxstack.verification.tcb_info import TcbStatus

A, B = "aa" * 48, "BB" * 48
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA me@here"


def problem(text: str) -> str:
    with pytest.raises(MalformedError) as caught:
        parse_policy(text.encode())
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("text", ["", "\n", "{}", "---\n", "# nothing"])
def test_an_empty_policy_is_the_strict_default(text: str) -> None:
    assert parse_policy(text.encode()) == Policy()


def test_every_key_is_read() -> None:
    text = f"""
name: production
tcb_status: [UpToDate, OutOfDate]
advisories:
  allowed: [INTEL-SA-00615]
  denied: [INTEL-SA-01234]
minimum_tcb_evaluation: 18
collateral_grace: 12 hours
platform_grace: 90 days
fmspc: [00806F050000, '50806f000000']
pck_ca: platform
debug: true
attributes: {{SEPT_VE_DISABLE: true, MIGRATABLE: false, PKS: false}}
service_td: [none, {A}]
registers:
  mrtd: [{A}, {B}]
  rtmr0: {A}
  report_data: {"01" * 64}
  mrenclave: {"02" * 32}
nonce: {"03" * 32}
bound_key: {KEY}
"""
    policy = parse_policy(text.encode())
    assert isinstance(policy, Policy)
    assert policy == Policy(
        name="production",
        accepted_tcb_statuses=frozenset({TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE}),
        allowed_advisories=frozenset({"INTEL-SA-00615"}),
        denied_advisories=frozenset({"INTEL-SA-01234"}),
        minimum_evaluation_number=18,
        collateral_grace=timedelta(hours=12),
        platform_grace=timedelta(days=90),
        allow_debug=True,
        required_attributes=TD_ATTRIBUTE_SEPT_VE_DISABLE,
        forbidden_attributes=1 << 29 | 1 << 30,
        service_tds=frozenset({bytes(48), b"\xaa" * 48}),
        fmspcs=frozenset({bytes.fromhex("00806f050000"), bytes.fromhex("50806f000000")}),
        pck_cas=frozenset({"platform"}),
        nonce=b"\x03" * 32,
        bound_key=policy.bound_key,
        expected={
            "mrtd": (b"\xaa" * 48, b"\xbb" * 48),
            "rtmr0": (b"\xaa" * 48,),
            "report_data": (b"\x01" * 64,),
            "mrenclave": (b"\x02" * 32,),
        },
    )
    assert policy.bound_key.startswith(b"\0\0\0\x0bssh-ed25519")


def test_no_file_allows_emulated_evidence() -> None:
    assert "allow_emulated: there is no such key" in problem("allow_emulated: true")


def test_digits_stay_digits() -> None:
    policy = parse_policy(b"fmspc: 001000000000\nregisters: {mrtd: " + b"0" * 96 + b"}")
    assert isinstance(policy, Policy)
    assert policy.fmspcs == frozenset({bytes.fromhex("001000000000")})
    assert policy.expected == {"mrtd": (bytes(48),)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tcb_statuses: [UpToDate]", "tcb_statuses: there is no such key"),
        ("tcb_status: [UptoDate]", "tcb_status[0]: 'UptoDate' is not one of UpToDate, "),
        ("tcb_status: []", "tcb_status: "),
        ("tcb_status: [UpToDate, Revoked]", "no policy accepts Revoked"),
        ("tcb_status: NotSupported", "no policy accepts NotSupported"),
        ("advisories: {denied: [INTEL-SA-615]}", "advisories.denied[0]: "),
        ("minimum_tcb_evaluation: -1", "minimum_tcb_evaluation: "),
        ("minimum_tcb_evaluation: eighteen", "minimum_tcb_evaluation: "),
        ("collateral_grace: 5", "'5' is no duration"),
        ("platform_grace: -5 days", "'-5 days' is no duration"),
        ("fmspc: 00806f0500", "'00806f0500' is not 6 bytes in hexadecimal"),
        ("pck_ca: [root]", "'root' is not one of platform, processor"),
        ("debug: perhaps", "debug: "),
        ("attributes: {DEBUG: false}", "say `debug` beside `attributes`"),
        ("attributes: {SEPT_VE: true}", "'SEPT_VE' is not one of "),
        ("registers: {mrtd: aabb}", "registers.mrtd[0]: 'aabb' is not 48 bytes in hexadecimal"),
        (f"registers: {{rtmr4: {A}}}", "registers.rtmr4: there is no such key"),
        ("registers: {mrtd: []}", "registers.mrtd: "),
        (f"registers: {{mrtd: [{A}, {A[:-2]}zz]}}", "registers.mrtd[1]: "),
        ("service_td: any", "service_td[0]: "),
        ("nonce: '00'", "nonce: '00' is not 32 bytes"),
        ("bound_key: nothing", "bound_key: "),
        ("debug: true\ndebug: false", "the key 'debug' is given twice"),
        ("any_of: {debug: true}", "any_of: "),
        ("any_of:\n- tcb: 1", "any_of[0].tcb: there is no such key"),
        ("- debug: true", "document: "),
        ("debug: [", "policy: "),
        ("\x00", "policy: "),
        ("!!python/object:os.system x", "document: "),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, said: str) -> None:
    assert said in problem(text)


def test_everything_that_is_wrong_is_told() -> None:
    message = problem("nonsense: 1\npck_ca: root\nregisters: {mrtd: '00', rtmr9: 1}\nany_of: [{x: 1}]")
    for place in ("nonsense", "pck_ca", "registers.mrtd[0]", "registers.rtmr9", "any_of[0].x"):
        assert f"{place}: " in message


def test_what_is_told_is_bounded_and_harmless() -> None:
    message = problem("\n".join(f"key{number}: 1" for number in range(20_000)))
    assert message.endswith("; and 19950 more")
    assert "\x1b" not in problem('"\\e[31mred": 1')
    assert len(problem("k" * 5000 + ": 1")) < 1000


def test_combinations_are_read_and_nest() -> None:
    text = f"""
all_of:
  - any_of:
      - {{name: new, registers: {{mrtd: {A}}}}}
      - {{name: old, registers: {{mrtd: {B}}}}}
  - pck_ca: platform
"""
    policy = parse_policy(text.encode())
    assert isinstance(policy, AllOf)
    either, authority = policy.members
    assert isinstance(either, AnyOf)
    assert [member.name for member in either.members] == ["new", "old"]
    assert authority == Policy(pck_cas=frozenset({"platform"}))


def test_both_combinations_in_one_policy_must_hold() -> None:
    policy = parse_policy(b"all_of: [{debug: true}]\nany_of: [{pck_ca: platform}]")
    assert policy == AllOf(
        (AllOf((Policy(allow_debug=True),)), AnyOf((Policy(pck_cas=frozenset({"platform"})),)))
    )


@pytest.mark.parametrize("text", ["any_of: []", "all_of: []"])
def test_an_empty_combination_stays_one(text: str) -> None:
    policy = parse_policy(text.encode())
    assert isinstance(policy, AnyOf | AllOf) and policy.members == ()


def test_what_is_around_a_policy_holds_in_it() -> None:
    text = f"""
tcb_status: [UpToDate, OutOfDate]
advisories: {{allowed: [INTEL-SA-00001, INTEL-SA-00002], denied: [INTEL-SA-00003]}}
minimum_tcb_evaluation: 18
collateral_grace: 2 days
platform_grace: 1 day
debug: true
attributes: {{PKS: true}}
service_td: [none, {A}]
fmspc: ['000000000001', '000000000002']
registers: {{mrtd: [{A}, {B}], rtmr0: {A}}}
any_of:
  - tcb_status: OutOfDate
    advisories: {{allowed: [INTEL-SA-00002, INTEL-SA-00004], denied: [INTEL-SA-00005]}}
    minimum_tcb_evaluation: 17
    collateral_grace: 3 days
    platform_grace: 1 hour
    debug: false
    attributes: {{LASS: false}}
    service_td: none
    fmspc: ['000000000002', '000000000003']
    registers: {{mrtd: {B}, rtmr1: {B}}}
  - {{}}
"""
    policy = parse_policy(text.encode())
    assert isinstance(policy, AnyOf)
    tighter, same = policy.members
    assert tighter == Policy(
        accepted_tcb_statuses=frozenset({TcbStatus.OUT_OF_DATE}),
        allowed_advisories=frozenset({"INTEL-SA-00002"}),
        denied_advisories=frozenset({"INTEL-SA-00003", "INTEL-SA-00005"}),
        minimum_evaluation_number=18,
        collateral_grace=timedelta(days=2),
        platform_grace=timedelta(hours=1),
        allow_debug=False,
        required_attributes=1 << 30,
        forbidden_attributes=1 << 27,
        service_tds=frozenset({bytes(48)}),
        fmspcs=frozenset({bytes.fromhex("000000000002")}),
        expected={"mrtd": (b"\xbb" * 48,), "rtmr0": (b"\xaa" * 48,), "rtmr1": (b"\xbb" * 48,)},
    )
    assert isinstance(same, Policy)
    assert same.allow_debug and same.minimum_evaluation_number == 18
    assert same.expected["mrtd"] == (b"\xaa" * 48, b"\xbb" * 48)


@pytest.mark.parametrize(
    ("outer", "inner", "key"),
    [
        ("tcb_status: UpToDate", "tcb_status: OutOfDate", "tcb_status"),
        ("fmspc: '000000000001'", "fmspc: '000000000002'", "fmspc"),
        ("pck_ca: platform", "pck_ca: processor", "pck_ca"),
        (f"service_td: {A}", "service_td: none", "service_td"),
        (f"registers: {{rtmr2: {A}}}", f"registers: {{rtmr2: {B}}}", "registers.rtmr2"),
        ("attributes: {PKS: true}", "attributes: {PKS: false}", "attributes"),
        (f"nonce: {'00' * 32}", f"nonce: {'01' * 32}", "nonce"),
    ],
)
def test_a_contradiction_is_an_error(outer: str, inner: str, key: str) -> None:
    message = problem(f"{outer}\nall_of:\n- debug: false\n- {inner}")
    assert f"policy.all_of[1]: nothing can satisfy this {key} and the one around it" in message


def test_depth_and_size_are_bounded() -> None:
    assert "nested" in problem("any_of: [{" * 17 + "}]" * 17)
    assert "policy: " in problem("any_of: [{" * 5000)
    assert "policy: " in problem("[" * 100_000)
    assert "bytes, more than" in problem("#" * ((1 << 20) + 1))


def test_the_example_of_the_reference_is_a_policy() -> None:
    text = (Path(__file__).parents[3] / "docs/reference/policy.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    policy = parse_policy(example.encode())
    assert isinstance(policy, AnyOf)
    older, newer = policy.members
    assert isinstance(older, Policy) and isinstance(newer, Policy)
    assert len(older.accepted_tcb_statuses) == 2 and len(newer.accepted_tcb_statuses) == 1
    assert older.expected == newer.expected and older.fmspcs != newer.fmspcs


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_policy_or_an_error(text: bytes) -> None:
    try:
        parse_policy(text)
    except MalformedError as error:
        assert error.message.isprintable() or "\n" not in error.message
