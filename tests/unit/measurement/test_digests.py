from __future__ import annotations

import hashlib
import struct
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.abi import event_log
from tdxstack.abi.event_log import ALG_SHA1, ALG_SHA384, Event
from tdxstack.measurement.digests import check_digest

GLOBAL = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c").bytes_le


def sha(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()


def event(kind: int, data: bytes, hashed: bytes) -> Event:
    return Event(1, kind, ((ALG_SHA384, sha(hashed)),), data)


def variable(name: str, value: bytes) -> bytes:
    return struct.pack("<16sQQ", GLOBAL, len(name), len(value)) + name.encode("utf-16-le") + value


@pytest.mark.parametrize(
    "kind",
    [
        event_log.EV_SEPARATOR,
        event_log.EV_EFI_ACTION,
        event_log.EV_EFI_GPT_EVENT,
        event_log.EV_EFI_VARIABLE_DRIVER_CONFIG,
        event_log.EV_EFI_VARIABLE_AUTHORITY,
    ],
)
def test_digest_of_the_data(kind: int) -> None:
    assert check_digest(event(kind, b"data", b"data")).status == "ok"
    bad = check_digest(event(kind, b"data", b"date"))
    assert (bad.status, bad.expected, bad.found) == ("fail", sha(b"data"), sha(b"date"))


def test_attestation_agent_hashes_its_tagged_event_or_its_line() -> None:
    tagged = b"LEAA\3\0\0\0a b"
    for hashed, status in ((tagged, "ok"), (b"a b", "ok"), (b"a c", "fail")):
        assert check_digest(event(event_log.EV_EVENT_TAG, tagged, hashed)).status == status


def test_separator_digest_is_the_known_one() -> None:
    check = check_digest(event(event_log.EV_SEPARATOR, bytes(4), bytes(4)))
    assert check.found is not None
    assert check.found.hex().startswith("394341b7182cd227c5c6b07ef8000cdf")


def test_boot_variable_is_hashed_with_or_without_its_header() -> None:
    data = variable("BootOrder", b"\0\0")
    kind = event_log.EV_EFI_VARIABLE_BOOT
    assert check_digest(event(kind, data, b"\0\0")).status == "ok"
    assert check_digest(event(kind, data, data)).status == "ok"
    assert check_digest(event(kind, data, b"\0\1")).status == "fail"
    assert check_digest(event(kind, b"short", b"other")).status == "fail"


@pytest.mark.parametrize("prefix", [b"grub_cmd: ", b"kernel_cmdline: ", b"module_cmdline: "])
def test_grub_hashes_the_text_behind_its_prefix(prefix: bytes) -> None:
    kind = event_log.EV_IPL
    assert (
        check_digest(event(kind, prefix + b"linux /vmlinuz quiet\0", b"linux /vmlinuz quiet")).status == "ok"
    )
    assert (
        check_digest(event(kind, prefix + b"linux /vmlinuz debug\0", b"linux /vmlinuz quiet")).status
        == "fail"
    )


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (event_log.EV_IPL, b"/boot/vmlinuz\0"),
        (event_log.EV_EVENT_TAG, b"grub_cmd: reboot\0"),
        (event_log.EV_EFI_BOOT_SERVICES_APPLICATION, bytes(32)),
        (event_log.EV_EFI_HANDOFF_TABLES2, b"\x09TdxTable\0"),
        (event_log.EV_PLATFORM_CONFIG_FLAGS, b"ACPI DATA"),
        (event_log.EV_EVENT_TAG, bytes(8)),
        (0x12345678, b"data"),
    ],
)
def test_what_is_not_in_the_log_is_unknown(kind: int, data: bytes) -> None:
    check = check_digest(event(kind, data, b"the real thing"))
    assert (check.status, check.expected, check.found) == ("unknown", None, sha(b"the real thing"))


def test_not_applicable() -> None:
    assert check_digest(event(event_log.EV_NO_ACTION, b"x", b"y")).status == "not_applicable"
    sha1 = Event(1, event_log.EV_SEPARATOR, ((ALG_SHA1, bytes(20)),), bytes(4))
    assert check_digest(sha1).status == "not_applicable"


@given(st.sampled_from(sorted(event_log.EVENT_TYPE_NAMES)), st.binary(max_size=80))
def test_any_data(kind: int, data: bytes) -> None:
    check = check_digest(event(kind, data, data + b"more"))
    assert check.status in ("fail", "unknown", "not_applicable")
