"""The JSON documents that `tdx-guest` and `tdx guest` answer with (docs/reference/json.md)."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from tdxstack.abi.event_log import EventLog
from tdxstack.evidence.check import Check
from tdxstack.evidence.quote_source import SourcedQuote
from tdxstack.evidence.registers import Extended


def report_document(report_data: bytes, report: bytes) -> dict[str, Any]:
    """A TDREPORT and the 64 bytes that were asked to be in it."""
    return {"report_data": report_data.hex(), "tdreport": _base64(report)}


def quote_document(report_data: bytes, quote: SourcedQuote) -> dict[str, Any]:
    """A quote, the 64 bytes that were asked to be in it, and where it came from."""
    return {
        "report_data": report_data.hex(),
        "quote": _base64(quote.quote),
        "provider": quote.provider,
        "generation": quote.generation,
        "via": quote.via,
        "reason": quote.reason,
    }


def event_log_document(table: bytes, data: bytes) -> dict[str, Any]:
    """The CCEL table, the event log, and its events. Raises `MalformedError`."""
    events = [
        {
            "register": event.mr_name.lower(),
            "type": event.type_name,
            "digest": (event.digest() or b"").hex(),
            "data": _base64(event.data),
        }
        for event in EventLog.parse(data).events
    ]
    return {"ccel_table": _base64(table), "ccel_data": _base64(data), "events": events}


def extended_document(done: Extended) -> dict[str, Any]:
    """A register before and after."""
    return {
        "register": done.name,
        "digest": done.digest.hex(),
        "before": done.before.hex(),
        "after": done.after.hex(),
    }


def checks_document(checks: Iterable[Check]) -> dict[str, Any]:
    """The checks, each {id, status, expected, found, detail}."""
    return {"checks": [asdict(one) for one in checks]}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
