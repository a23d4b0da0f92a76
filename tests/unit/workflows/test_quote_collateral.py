from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tdxstack.collateral.fetch import Client
from tdxstack.collateral.service import Service
from tdxstack.collateral.signed_json import SignedJson
from tdxstack.collateral.writing import FORMS, write_collateral
from tdxstack.errors import MalformedError, UnavailableError, UsageError
from tdxstack.workflows.quote_collateral import collateral_of_file, collateral_of_service
from tests.recorded_boot import Keys, Recorded, pki_in, synthetic_boot, with_tcb_info
from tests.unit.collateral.pcs_server import serving

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.fixture(scope="module")
def keys_and_boot(tmp_path_factory: pytest.TempPathFactory) -> tuple[Keys, Recorded]:
    pki = pki_in(tmp_path_factory.mktemp("emulated"), NOW)
    return Keys.of(pki), synthetic_boot(pki, NOW)


@pytest.fixture(scope="module")
def boot(keys_and_boot: tuple[Keys, Recorded]) -> Recorded:
    return keys_and_boot[1]


@pytest.mark.parametrize("form", FORMS)
def test_file_of_any_form(boot: Recorded, tmp_path: Path, form: str) -> None:
    (tmp_path / "file").write_bytes(write_collateral([boot.collateral], form))
    assert collateral_of_file(tmp_path / "file")(boot.evidence.quote) == boot.collateral


def test_platform_of_the_quote_is_chosen(keys_and_boot: tuple[Keys, Recorded], tmp_path: Path) -> None:
    keys, boot = keys_and_boot
    other = with_tcb_info(boot, keys, lambda value: value.update(fmspc="00806F050000")).collateral
    (tmp_path / "file").write_bytes(write_collateral([other, boot.collateral]))
    assert collateral_of_file(tmp_path / "file")(boot.evidence.quote) == boot.collateral
    with pytest.raises(UsageError, match="for 2 platforms"):
        collateral_of_file(tmp_path / "file")(b"no quote")


def test_only_collateral_is_given_also_for_a_quote_that_cannot_be_read(
    boot: Recorded, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(boot.collateral.to_json())
    assert collateral_of_file(tmp_path / "file")(b"no quote") == boot.collateral


def test_file_is_looked_at_before_a_machine_is_started(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="absent cannot be read"):
        collateral_of_file(tmp_path / "absent")
    (tmp_path / "file").write_bytes(b"{}")
    with pytest.raises(MalformedError):
        collateral_of_file(tmp_path / "file")


def test_service_is_asked_for_the_platform_of_the_quote(boot: Recorded) -> None:
    with serving(boot.collateral) as server:
        client = Client(Service(server.origin), lambda: NOW)
        assert collateral_of_service(client)(boot.evidence.quote) == boot.collateral
        fmspc = SignedJson.parse(boot.collateral.tcb_info, "tcbInfo").value["fmspc"]
        assert f"fmspc={fmspc}" in server.requests[0]
        unknown = replace(client, service=Service(f"{server.origin}0"))
        with pytest.raises(MalformedError):
            collateral_of_service(unknown)(b"no quote")
