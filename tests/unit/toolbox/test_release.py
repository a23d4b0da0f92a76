from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdxstack.errors import MalformedError
from tdxstack.toolbox.release import Release

NOW = datetime(2026, 11, 20, tzinfo=UTC)
SIGNED = """\
-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA256

Origin: Debian
Suite: unstable
Codename: sid
Date: {date}
Valid-Until: {until}
SHA256:
 00 1 main/x
-----BEGIN PGP SIGNATURE-----

iQ==
"""


def parse(date: str, until: str) -> Release:
    return Release.parse("sid", SIGNED.format(date=date, until=until), NOW)


def test_dates() -> None:
    fresh = parse("Thu, 19 Nov 2026 08:00:00 UTC", "Thu, 26 Nov 2026 08:00:00 +0000")
    assert (fresh.origin, fresh.codename, fresh.version) == ("Debian", "sid", "")
    assert fresh.valid_until == datetime(2026, 11, 26, 8, tzinfo=UTC)
    assert (fresh.expired, fresh.early, fresh.warning) == (False, False, "")
    stale = parse("Thu, 05 Nov 2026 08:00:00 UTC", "Thu, 12 Nov 2026 08:00:00 UTC")
    assert (stale.expired, stale.early) == (True, False)
    assert "sid" in stale.warning
    early = parse("Sun, 22 Nov 2026 08:00:00 UTC", "Sun, 29 Nov 2026 08:00:00 UTC")
    assert (early.expired, early.early) == (False, True)
    assert "clock" in early.warning


def test_a_suite_may_be_valid_for_ever() -> None:
    text = SIGNED.format(date="Thu, 05 Nov 2020 08:00:00 UTC", until="").replace("Valid-Until: \n", "")
    release = Release.parse("trixie", text, NOW)
    assert release.valid_until is None
    assert not release.expired


@pytest.mark.parametrize("date", ["", "yesterday", "Thu, 99 Nov 2026 08:00:00 UTC", "1e9"])
def test_what_is_no_date_is_malformed(date: str) -> None:
    with pytest.raises(MalformedError, match="sid"):
        parse(date, "Thu, 26 Nov 2026 08:00:00 UTC")


@given(st.text())
def test_any_text_gives_a_release_or_an_error(text: str) -> None:
    for whole in (text, f"Date: {text}\n", f"Date: Thu, 05 Nov 2020 08:00:00 UTC\nValid-Until: {text}\n"):
        try:
            Release.parse("sid", whole, NOW)
        except MalformedError as error:
            assert len(error.message) < 200
