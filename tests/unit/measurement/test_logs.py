"""Logs of every kind, made by hand: recognised, listed and replayed."""

from __future__ import annotations

import hashlib
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import MalformedError, UsageError
from tdxstack.measurement.log_replay import compare_rtmrs, replay_logs
from tdxstack.measurement.logs import LogKind, read_log, recognise
from tdxstack.measurement.replay import Rtmrs
from tests.unit.abi.test_cel import as_cbor, cbor_record

ZERO = bytes(48)


def sha(data: bytes, algorithm: str = "sha384") -> bytes:
    return hashlib.new(algorithm, data).digest()


def extended(*digests: bytes, start: bytes = ZERO, algorithm: str = "sha384") -> bytes:
    for digest in digests:
        start = sha(start + digest, algorithm)
    return start


def header(*algorithms: tuple[int, int], index: int = 1) -> bytes:
    data = struct.pack("<16sIBBBBI", b"Spec ID Event03", 0, 0, 2, 0, 2, len(algorithms))
    data += b"".join(struct.pack("<HH", *pair) for pair in algorithms) + b"\0"
    return struct.pack("<II20sI", index, 3, bytes(20), len(data)) + data


def event(index: int, kind: int, data: bytes, digest: bytes | None = None) -> bytes:
    return struct.pack("<IIIH48sI", index, kind, 1, 12, digest or sha(data), len(data)) + data


SEPARATOR = bytes(4)
CCEL = (
    header((12, 48))
    + event(1, 4, SEPARATOR)
    + event(2, 4, SEPARATOR)
    + event(3, 13, b"grub_cmd: x\0", sha(b"x"))
)
CCEL_RTMRS: Rtmrs = (extended(sha(SEPARATOR)), extended(sha(SEPARATOR)), extended(sha(b"x")), ZERO)

TPM = (
    header((4, 20), (11, 32), index=0)
    + struct.pack("<IIIH20sH32sI", 0, 3, 2, 4, bytes(20), 11, bytes(32), 17)
    + b"StartupLocality\0\3"
    + struct.pack("<IIIH20sH32sI", 0, 8, 2, 4, sha(b"v", "sha1"), 11, sha(b"v", "sha256"), 1)
    + b"v"
)
LEGACY = struct.pack("<II20sI", 10, 5, sha(b"v", "sha1"), 1) + b"v"
TEXT = b"a b c"
TAGGED = b"LEAA" + struct.pack("<I", len(TEXT)) + TEXT
AAEL = event(4, 6, TAGGED)
FIELDS = struct.pack("<I", 9) + b"sha256:\0f" + struct.pack("<I", 5) + b"/bin\0"
IMA = struct.pack("<I20sI", 2, sha(FIELDS, "sha1"), 6) + b"ima-ng" + struct.pack("<I", len(FIELDS)) + FIELDS


def cel(kind: int, register: int, content: bytes = b"\5\0\0\0\0") -> bytes:
    digest = b"\x0c\0\0\0\x30" + sha(b"c")
    number = b"\0" + struct.pack(">IQ", 8, 0)
    return (
        number
        + struct.pack(">BIB", kind, 1, register)
        + b"\3"
        + struct.pack(">I", len(digest))
        + digest
        + content
    )


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (CCEL, LogKind.TCG),
        (CCEL + b"\xff" * 99, LogKind.TCG),
        (TPM, LogKind.TCG),
        (LEGACY, LogKind.TCG),
        (LEGACY.replace(b"\x0a\0\0\0", bytes(4), 1), LogKind.TCG),
        (AAEL, LogKind.AAEL),
        (b"INIT sha384/00\na b c\n", LogKind.AAEL),
        (IMA, LogKind.IMA),
        (b"10 %s ima-ng sha256:00 /bin/sh\n" % (b"0" * 40), LogKind.IMA),
        (cel(108, 1), LogKind.CEL),
        (b'[{"pcr": 1, "digests": [], "content_type": "systemd"}]', LogKind.CEL),
        (as_cbor(cbor_record()), LogKind.CEL),
    ],
)
def test_recognised_by_content(data: bytes, kind: LogKind) -> None:
    assert recognise(data) is kind
    assert read_log(data) == read_log(data, kind)
    log = read_log(data)
    assert log.count == len(list(log.entries()))
    assert [(entry.digests, entry.digest_status) for entry in log.entries()] == list(log.digests())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"CCEL" + bytes(52), "the ACPI table CCEL"),
        (b"HCLA" + bytes(2596), "an HCL report"),
        (b"\x81" + bytes(1023), "a TDREPORT"),
        (b"\x81\0\1" + bytes(1021), "a TDREPORT"),
        (b"\4\0\2\0\x81" + bytes(900), "a quote"),
        (b"hello", "5 bytes are no log"),
        (bytes(20), "20 bytes are no log"),
    ],
)
def test_other_evidence_is_named(data: bytes, said: str) -> None:
    with pytest.raises(MalformedError, match=said) as caught:
        read_log(data)
    assert caught.value.hint


def test_entries_of_a_td() -> None:
    head, separator, _, grub = read_log(CCEL).entries()
    assert head.meaning == "header of the log, specification 2.00, digests: sha384 (48 bytes)"
    assert (separator.register, separator.type, separator.digest_status) == ("rtmr0", "EV_SEPARATOR", "ok")
    assert separator.digests == (("sha384", sha(SEPARATOR)),)
    assert (grub.register, grub.meaning, grub.digest_status) == ("rtmr2", "GRUB command: x", "ok")


def test_entries_of_other_logs() -> None:
    assert [entry.register for entry in read_log(TPM).entries()] == ["pcr0"] * 3
    (ima,) = read_log(IMA).entries()
    assert (ima.register, ima.type, ima.digest_status) == ("pcr2", "ima-ng", "ok")
    (forged,) = read_log(IMA.replace(b"/bin", b"/sin")).entries()
    assert forged.digest_status == "fail"
    (record,) = read_log(cel(108, 4)).entries()
    assert (record.register, record.type, record.digests) == (
        "rtmr3",
        "pcclient_std",
        (("sha384", sha(b"c")),),
    )
    action = b"\0\0\0\0\4\x80\0\0\7" + b"\1\0\0\0\2hi"
    (record,) = read_log(cel(1, 4, b"\5" + struct.pack(">I", len(action)) + action)).entries()
    assert (record.register, record.meaning) == ("pcr4", "EV_EFI_ACTION: hi")
    (record,) = read_log(cel(2, 0x40)).entries()
    assert record.register == "nv 0x40"


def test_replay_of_a_td() -> None:
    done = replay_logs([read_log(CCEL)])
    assert (done.events, done.rtmrs, done.rtmr_events, done.banks) == (4, CCEL_RTMRS, (1, 1, 1, 0), None)
    assert done.wrong_digests == ()


def test_logs_of_one_td_together() -> None:
    done = replay_logs([read_log(CCEL), read_log(AAEL), read_log(IMA), read_log(cel(108, 4))])
    rtmr2 = extended(sha(b"x"), sha(FIELDS))
    rtmr3 = extended(sha(TAGGED), sha(b"c"))
    assert done.rtmrs == (*CCEL_RTMRS[:2], rtmr2, rtmr3)
    assert done.rtmr_events == (1, 1, 2, 2)
    assert done.events == 7


def test_replay_of_pcrs() -> None:
    done = replay_logs([read_log(TPM)])
    assert done.rtmrs is None
    assert done.banks == {
        name: {"pcr0": extended(sha(b"v", name), start=bytes(size - 1) + b"\3", algorithm=name)}
        for name, size in (("sha1", 20), ("sha256", 32))
    }
    assert replay_logs([read_log(LEGACY)]).banks == {
        "sha1": {"pcr10": extended(sha(b"v", "sha1"), start=bytes(20), algorithm="sha1")}
    }
    ima = replay_logs([read_log(IMA)]).banks
    assert ima is not None
    assert ima["sha256"] == {"pcr2": extended(sha(FIELDS, "sha256"), start=bytes(32), algorithm="sha256")}
    assert replay_logs([read_log(cel(1, 12))]).banks == {"sha384": {"pcr12": extended(sha(b"c"))}}


def test_digest_that_is_not_of_the_data_is_told() -> None:
    log = header((12, 48)) + event(1, 4, SEPARATOR) + event(1, 4, SEPARATOR, sha(b"other"))
    assert replay_logs([read_log(log)]).wrong_digests == (2,)


def test_records_without_digests_extend_nothing() -> None:
    record = {"pcr": 1, "digests": [], "content_type": "cel", "content": {"type": "cel_version"}}
    log = read_log(json.dumps([record]).encode())
    assert replay_logs([read_log(CCEL), log]).rtmrs == CCEL_RTMRS


def test_logs_that_do_not_go_together() -> None:
    with pytest.raises(UsageError, match="only for a TD"):
        replay_logs([read_log(TPM), read_log(CCEL)])
    with pytest.raises(MalformedError, match="extend no RTMR"):
        replay_logs([read_log(CCEL), read_log(TPM)])


def changed(register: int) -> Rtmrs:
    values = list(CCEL_RTMRS)
    values[register] = b"x" * 48
    return values[0], values[1], values[2], values[3]


def test_comparison() -> None:
    done = replay_logs([read_log(CCEL)])
    same = compare_rtmrs(done, CCEL_RTMRS)
    assert (same.matches, same.notes, same.good) == ((True,) * 4, (), True)
    for register in range(3):
        other = compare_rtmrs(done, changed(register))
        assert [index for index, match in enumerate(other.matches) if not match] == [register]
        assert not other.good
        assert len(other.notes) == 1


def test_rtmr3_without_events_is_told_and_good() -> None:
    compared = compare_rtmrs(replay_logs([read_log(CCEL)]), changed(3))
    assert (compared.matches, compared.good) == ((True, True, True, False), True)
    assert "RTMR3 was extended, and the logs have no event for it" in compared.notes[0]


def test_rtmr3_that_differs_from_its_events_is_not_good() -> None:
    compared = compare_rtmrs(replay_logs([read_log(CCEL), read_log(AAEL)]), changed(3))
    assert (compared.matches, compared.good) == ((True, True, True, False), False)


def test_register_without_events_that_was_extended_is_not_good() -> None:
    compared = compare_rtmrs(replay_logs([read_log(AAEL)]), CCEL_RTMRS)
    assert not compared.good
    assert compared.notes[:3] == tuple(f"RTMR{index}: the logs have no event for it" for index in range(3))


def test_pcrs_are_not_compared() -> None:
    with pytest.raises(UsageError, match="not a TD's"):
        compare_rtmrs(replay_logs([read_log(TPM)]), CCEL_RTMRS)


@given(
    st.sampled_from(
        [b"", CCEL, TPM, LEGACY, AAEL, IMA, cel(108, 1), b'{"pcr":1,"digests":[],"content_type":"']
    ),
    st.binary(max_size=60),
)
def test_any_input(start: bytes, data: bytes) -> None:
    try:
        log = read_log(start + data)
    except MalformedError as error:
        assert error.hint
        return
    for entry in log.entries():
        assert entry.meaning.isprintable()
    assert replay_logs([log]).events == log.count
    json.dumps(log.kind.value)
