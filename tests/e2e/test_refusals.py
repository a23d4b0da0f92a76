"""A boot that really happened, replayed with one thing altered at a time: refused, for that reason."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tdxstack.collateral.bundle import Collateral
from tdxstack.evidence.document import Evidence
from tdxstack.measurement.mrtd import mrtd
from tdxstack.quoting.pki import open_pki
from tdxstack.testing.runner import Recording, Tdx
from tdxstack.verification.boot import Expectation
from tdxstack.verification.certificates import TrustAnchor
from tests.recorded_boot import ALLOW_EMULATED, Keys, Recorded, with_evidence
from tests.verification_mutations import MUTATIONS, Mutation, flipped


@pytest.fixture(scope="module")
def keys(recording: Recording) -> Keys:
    return Keys.of(open_pki(recording.data / "pki", datetime.now(UTC)))


@pytest.fixture(scope="module")
def recorded(recording: Recording) -> Recorded:
    return read(recording.files, recording)


def read(files: Path, recording: Recording) -> Recorded:
    """What the verifier of that boot was given."""
    evidence = Evidence.from_json((files / "evidence.json").read_bytes())
    argv = recording.document["machine"]["argv"]
    firmware = Path(argv[argv.index("-bios") + 1]).read_bytes()
    return Recorded(
        evidence,
        Expectation(evidence.nonce, evidence.host_key, mrtd(firmware).single_pass),
        Collateral.from_json((files / "collateral.json").read_bytes()),
        (TrustAnchor.from_certificate((recording.data / "pki/root-ca.pem").read_bytes()),),
        ALLOW_EMULATED,
        datetime.now(UTC),
    )


def test_the_recording_is_accepted_as_it_is(recorded: Recorded) -> None:
    assert recorded.verify().accepted


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.id)
def test_just_the_altered_evidence_fails(mutation: Mutation, recorded: Recorded, keys: Keys) -> None:
    result = mutation.apply(recorded, keys).verify()
    assert result.verdict == "rejected"
    bad = {check.id: check for check in result.checks if check.status.value in ("fail", "unknown")}
    assert set(bad) == {mutation.check, *mutation.unknown}
    assert bad[mutation.check].expected
    assert bad[mutation.check].found


def test_no_changed_byte_of_the_quote_goes_unnoticed(recorded: Recorded) -> None:
    """Every byte up to the certificates, and some of each line of those."""
    quote = recorded.evidence.quote
    certificates = quote.index(b"-----BEGIN")
    lines = [quote.index(b"\n", at) + 20 for at in range(certificates, len(quote) - 200, 65)]
    for offset in [*range(0, certificates, 7), *lines]:
        changed = with_evidence(recorded, quote=flipped(quote, offset))
        assert not changed.verify().accepted, f"byte {offset}"


def test_evidence_of_another_guest_is_refused(tdx: Tdx, recording: Recording, recorded: Recorded) -> None:
    """Both are genuine; only the key at the end of the channel tells them apart."""
    document = tdx.json("up", "--name", "other", "--platform", "emulated")
    assert document["verdict"] == "accepted"
    other = read(tdx.files("other"), recording)
    assert other.evidence.host_key != recorded.evidence.host_key
    # What an instance's keys are does not show in any register.
    assert other.evidence.measurements == recorded.evidence.measurements
    swapped = replace(
        recorded,
        evidence=other.evidence,
        expectation=replace(recorded.expectation, nonce=other.evidence.nonce),
    )
    result = swapped.verify()
    assert [check.id for check in result.checks if check.status == "fail"] == ["evidence.host_key"]
    tdx.run("down", "other")
