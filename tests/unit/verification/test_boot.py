from __future__ import annotations

from dataclasses import replace

import pytest

from tdxstack.abi.ccel import CcelTable
from tdxstack.abi.event_log import ALG_SHA1, Event, EventLog
from tdxstack.quoting.pki import Pki
from tdxstack.verification.boot import BOOT_CHECKS
from tdxstack.verification.result import Status
from tests.recorded_boot import NOW, Keys, Recorded, synthetic_boot, with_evidence
from tests.verification_mutations import MUTATIONS, Mutation, flipped


@pytest.fixture(scope="module", params=[4, 5])
def boot(pki: Pki, request: pytest.FixtureRequest) -> Recorded:
    return synthetic_boot(pki, NOW, quote_version=request.param)


def ids(recorded: Recorded, *statuses: Status) -> set[str]:
    return {check.id for check in recorded.verify().checks if check.status in statuses}


def test_an_honest_boot_is_accepted_and_says_that_it_is_emulated(boot: Recorded) -> None:
    result = boot.verify()
    assert result.accepted, [check for check in result.checks if check.status is not Status.OK]
    assert result.emulated
    assert tuple(check.id for check in result.checks) == BOOT_CHECKS
    assert {check.status for check in result.checks} == {Status.OK}
    assert list(result.registers) == ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"]
    assert all(register.match for register in result.registers.values())


def test_there_is_a_mutation_for_every_check() -> None:
    # Quotes that only name their PCK certificate cannot be verified as part of a boot.
    assert {mutation.check for mutation in MUTATIONS} == set(BOOT_CHECKS) - {"quote.certification"}
    assert len({mutation.id for mutation in MUTATIONS}) == len(MUTATIONS)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.id)
def test_a_mutation_fails_its_check_and_no_other(pki: Pki, boot: Recorded, mutation: Mutation) -> None:
    mutated = mutation.apply(boot, Keys.of(pki))
    result = mutated.verify()
    failed = [check for check in result.checks if check.status is Status.FAIL]
    assert [check.id for check in failed] == [mutation.check], failed
    assert {check.id for check in result.checks if check.status is Status.UNKNOWN} == set(mutation.unknown)
    assert result.verdict == "rejected"
    assert failed[0].expected
    assert failed[0].found
    assert failed[0].expected != failed[0].found
    assert result.emulated


def test_the_document_that_goes_out_is_complete(boot: Recorded) -> None:
    document = boot.verify().to_json()
    assert document["verdict"] == "accepted"
    assert document["emulated"] is True
    assert document["tcb_status"] == "UpToDate"
    assert document["pck"]["fmspc"].startswith("fe")
    assert document["pck"]["ca"] == "platform"
    assert document["registers"]["rtmr3"] == {"expected": "00" * 48, "measured": "00" * 48, "match": True}
    assert [check["id"] for check in document["checks"]] == list(BOOT_CHECKS)
    assert set(document["checks"][0]) == {"id", "status", "expected", "found", "detail"}


def test_every_byte_of_header_and_body_is_signed(boot: Recorded) -> None:
    for offset in range(0, 632, 5):
        changed = with_evidence(boot, quote=flipped(boot.evidence.quote, offset))
        assert ids(changed, Status.FAIL) & {"quote.signature", "quote.format"}


def test_every_byte_of_the_tdreport_that_is_hashed_counts(boot: Recorded) -> None:
    for offset in [*range(256, 495, 13), *range(512, 1024, 13)]:
        changed = with_evidence(boot, tdreport=flipped(boot.evidence.tdreport, offset))
        assert "tdreport.hashes" in ids(changed, Status.FAIL)


def test_a_changed_reportdata_in_the_tdreport_is_seen(boot: Recorded) -> None:
    changed = with_evidence(boot, tdreport=flipped(boot.evidence.tdreport, 128))
    assert ids(changed, Status.FAIL) == {"tdreport.quote"}


@pytest.mark.parametrize("data", [b"", b"x", bytes(5000)])
def test_an_unreadable_quote_leaves_nothing_unsaid(boot: Recorded, data: bytes) -> None:
    result = with_evidence(boot, quote=data).verify()
    assert result.verdict == "rejected"
    assert result.quote is None
    assert [check.id for check in result.checks] == list(BOOT_CHECKS)
    assert result.checks[0].status is Status.FAIL
    assert result.checks[1].status is Status.UNKNOWN
    assert result.registers["mrtd"].measured is None
    assert result.to_json()["registers"]["mrtd"]["measured"] is None


def test_an_unreadable_tdreport_fails_one_check(boot: Recorded) -> None:
    changed = with_evidence(boot, tdreport=bytes(1024))
    assert ids(changed, Status.FAIL) == {"tdreport.hashes"}
    assert ids(changed, Status.UNKNOWN) == {"tdreport.quote", "measurements.sysfs"}


def test_a_boot_without_event_log_is_not_accepted(boot: Recorded) -> None:
    reason = "there is no CCEL event log"
    result = with_evidence(boot, ccel_table=None, ccel_data=None, absent={"ccel": reason}).verify()
    assert result.verdict == "rejected"
    assert {check.detail for check in result.checks if check.id == "rtmr1.replay"} == {reason}


def test_measurement_files_may_be_absent_on_older_kernels(boot: Recorded) -> None:
    changed = with_evidence(boot, measurements=None, absent={"measurements": "the kernel shows no registers"})
    assert changed.verify().accepted
    assert ids(changed, Status.NOT_APPLICABLE) == {"measurements.sysfs"}


def test_measurement_files_must_show_all_registers(boot: Recorded) -> None:
    assert ids(with_evidence(boot, measurements={}), Status.FAIL) == {"measurements.sysfs"}


def test_without_ssh_the_host_key_does_not_apply(boot: Recorded) -> None:
    changed = replace(boot, expectation=replace(boot.expectation, host_key=None))
    assert changed.verify().accepted
    assert ids(changed, Status.NOT_APPLICABLE) == {"evidence.host_key"}


def test_rtmr3_need_not_be_known(boot: Recorded) -> None:
    changed = replace(boot, expectation=replace(boot.expectation, rtmr3=None))
    assert changed.verify().accepted
    assert ids(changed, Status.NOT_APPLICABLE) == {"rtmr3"}


def test_the_log_must_fit_the_area_of_the_table(boot: Recorded) -> None:
    assert boot.evidence.ccel_table is not None
    assert boot.evidence.ccel_data is not None
    table = CcelTable.parse(boot.evidence.ccel_table)
    for size, failing in (
        (len(boot.evidence.ccel_data), set()),
        (len(boot.evidence.ccel_data) - 1, {"ccel.table"}),
    ):
        changed = with_evidence(boot, ccel_table=replace(table, log_area_length=size).to_bytes())
        assert ids(changed, Status.FAIL) == failing


def test_a_legacy_log_is_no_tds(boot: Recorded) -> None:
    event = Event(1, 4, ((ALG_SHA1, bytes(20)),), bytes(4))
    changed = with_evidence(boot, ccel_data=EventLog(None, (event,)).to_bytes())
    assert ids(changed, Status.FAIL) == {"event_log.format"}
    assert ids(changed, Status.UNKNOWN) == {"rtmr0.replay", "rtmr1.replay", "rtmr2.replay"}
