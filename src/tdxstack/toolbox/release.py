"""What an archive's Release file says of itself: origin, version, date, and until when it is valid."""

from __future__ import annotations

import email.utils
from dataclasses import dataclass
from datetime import UTC, datetime

from tdxstack.errors import MalformedError
from tdxstack.toolbox.archive import stanzas


@dataclass(frozen=True, slots=True)
class Release:
    """A suite of an archive as its signed Release file describes it, looked at at a certain time."""

    suite: str
    origin: str
    codename: str
    version: str
    date: datetime
    valid_until: datetime | None
    expired: bool
    """Past its `valid_until`: the mirror is stale, or somebody withholds newer files."""
    early: bool
    """Dated in the future: the clock of this machine is wrong."""

    @classmethod
    def parse(cls, suite: str, text: str, now: datetime) -> Release:
        """Parse a Release or InRelease file (whose signature apt has checked) of `suite`, as of `now`.

        Raises `MalformedError` where the date is missing or is no date.
        """
        fields = next((stanza for stanza in stanzas(text) if "date" in stanza), None)
        if fields is None:
            raise MalformedError(f"the Release file of {suite} has no Date field", hint="try another mirror")
        date = _date(suite, fields["date"])
        valid_until = _date(suite, fields["valid-until"]) if "valid-until" in fields else None
        return cls(
            suite=suite,
            origin=fields.get("origin", ""),
            codename=fields.get("codename", ""),
            version=fields.get("version", ""),
            date=date,
            valid_until=valid_until,
            expired=valid_until is not None and valid_until < now,
            early=date > now,
        )

    @property
    def warning(self) -> str:
        """What a person should know about the age of this suite; empty if there is nothing."""
        if self.expired:
            dates = f"{self.date:%Y-%m-%d} and were valid until {self.valid_until:%Y-%m-%d}"
            return f"the package lists of suite {self.suite} are of {dates}"
        if self.early:
            date = f"{self.date:%Y-%m-%d %H:%M} UTC"
            return f"the package lists of suite {self.suite} are of {date}: the clock is wrong"
        return ""


def _date(suite: str, text: str) -> datetime:
    try:
        date = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        raise MalformedError(f"the Release file of {suite} has no valid date: {text[:60]!r}") from None
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
