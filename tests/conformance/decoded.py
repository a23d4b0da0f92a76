"""What other tools have decoded of the public logs and quotes, compared with what tdxstack reads."""

from __future__ import annotations

import base64
import json
import re

from tdxstack.abi.event_log import EV_NO_ACTION, Event, EventLog
from tdxstack.abi.quote import Quote, TdBody10
from tests.conformance import vectors

_ALGORITHMS = {"SHA-384": 0x0C, "SM3": 0x12}


def trustee_log(name: str, *, log: str) -> None:
    """Trustee's decoding of an event log: register, type, digests and data of every event."""
    expected = json.loads(vectors.read(name))["uefi_event_logs"]
    _same_events(EventLog.parse(vectors.read(log)).events, expected)


def trustee_claims(name: str, *, quote: str, log: str) -> None:
    """What Trustee's verifier claims of a quote and its event log."""
    claims = json.loads(vectors.read(name))
    parsed = Quote.parse(vectors.quote(quote))
    body, header = parsed.body, parsed.header
    assert isinstance(body, TdBody10)
    assert claims["quote"]["body"] == {
        "mr_config_id": body.mrconfigid.hex(),
        "mr_owner": body.mrowner.hex(),
        "mr_owner_config": body.mrownerconfig.hex(),
        "mr_seam": body.mrseam.hex(),
        "mr_td": body.mrtd.hex(),
        "mrsigner_seam": body.mrsignerseam.hex(),
        "report_data": body.report_data.hex(),
        "rtmr_0": body.rtmr0.hex(),
        "rtmr_1": body.rtmr1.hex(),
        "rtmr_2": body.rtmr2.hex(),
        "rtmr_3": body.rtmr3.hex(),
        "seam_attributes": body.seam_attributes.to_bytes(8, "little").hex(),
        "tcb_svn": body.tee_tcb_svn.hex(),
        "td_attributes": body.td_attributes.to_bytes(8, "little").hex(),
        "xfam": body.xfam.to_bytes(8, "little").hex(),
    }
    assert claims["quote"]["header"]["vendor_id"] == header.qe_vendor_id.hex()
    assert claims["quote"]["header"]["user_data"] == header.user_data.hex()
    _same_events(EventLog.parse(vectors.read(log)).events, claims["uefi_event_logs"])


def cc_api_log(name: str, *, log: str) -> None:
    """cctrusted's dump of an event log: type and digest of every event."""
    dumped: list[tuple[int, str]] = []
    for line in vectors.read(name).decode().splitlines():
        text = line[20:]
        if kind := re.match(r"Type +: 0x([0-9A-F]+)", text):
            dumped.append((int(kind[1], 16), ""))
            collecting = False
        elif text.startswith("Digest"):
            collecting = True
        elif text.startswith("Event:"):
            collecting = False
        elif dumped and collecting and (row := re.match(r"[0-9a-f]{8} ((?:[0-9a-f]{2} )+)", text)):
            dumped[-1] = dumped[-1][0], dumped[-1][1] + row[1].replace(" ", "")
    events = EventLog.parse(vectors.read(log)).events
    header, *rest = dumped
    assert header == (EV_NO_ACTION, "00" * 20)
    # The dump ends with the one entry of the kernel's integrity log, which is no event of the firmware's.
    assert rest[:-1] == [(event.type, (event.digest() or b"").hex()) for event in events]


def cc_api_quote(name: str, *, quote: str) -> None:
    """cctrusted's dump of a quote: every measurement of the TD."""
    body = Quote.parse(vectors.quote(quote)).body
    assert isinstance(body, TdBody10)
    text = vectors.read(name).decode()
    dumped = dict(re.findall(r"  ([A-Z0-9]+): 0x([0-9a-f]+)$", text, re.MULTILINE))
    assert dumped["MRCONFIG"] == body.mrconfigid.hex()
    for label in ("MRSEAM", "MRSIGNERSEAM", "MRTD", "MROWNER", "MROWNERCONFIG"):
        assert dumped[label] == getattr(body, label.lower()).hex()
    assert [dumped[f"RTMR{number}"] for number in range(4)] == [value.hex() for value in body.rtmrs]
    assert dumped["REPORTDATA"] == body.report_data.hex()


def _same_events(events: tuple[Event, ...], expected: list[dict[str, object]]) -> None:
    assert len(events) == len(expected)
    for event, wanted in zip(events, expected, strict=True):
        digests = wanted["digests"]
        assert isinstance(digests, list)
        assert event.type_name == wanted["type_name"]
        assert event.mr_index == wanted["index"]
        assert list(event.digests) == [
            (_ALGORITHMS[digest["alg"]], bytes.fromhex(digest["digest"])) for digest in digests
        ]
        assert event.data == base64.b64decode(str(wanted["event"]))
