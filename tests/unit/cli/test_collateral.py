from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tdxstack.cli import tdx
from tdxstack.collateral import intel_tool
from tdxstack.collateral.fetch import API_KEY_HEADER
from tdxstack.collateral.platform_id import subject_of
from tdxstack.collateral.reading import read_all, read_collateral
from tdxstack.errors import MalformedError, TdxError, UnavailableError, UsageError
from tests.recorded_boot import Keys, Recorded, pki_in, synthetic_boot, with_tcb_info
from tests.unit.collateral.pcs_server import PcsServer, serving

NOW = datetime.now(UTC)
OTHER = "00806f050000"


@pytest.fixture(scope="module")
def keys_and_boot(tmp_path_factory: pytest.TempPathFactory) -> tuple[Keys, Recorded]:
    pki = pki_in(tmp_path_factory.mktemp("emulated"), NOW)
    return Keys.of(pki), synthetic_boot(pki, NOW)


@pytest.fixture(scope="module")
def boot(keys_and_boot: tuple[Keys, Recorded]) -> Recorded:
    return keys_and_boot[1]


@pytest.fixture(scope="module")
def other(keys_and_boot: tuple[Keys, Recorded]) -> Recorded:
    """The same boot with collateral of another platform."""
    keys, boot = keys_and_boot
    return with_tcb_info(boot, keys, lambda value: value.update(fmspc=OTHER.upper()))


@pytest.fixture
def server(boot: Recorded) -> Iterator[PcsServer]:
    with serving(boot.collateral) as server:
        yield server


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def call(*words: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(tdx, ["collateral", *words], input=stdin, standalone_mode=False)


def run(*words: str, stdin: bytes = b"") -> Result:
    result = call(*words, stdin=stdin)
    assert result.exception is None, result.exception
    return result


def refused(*words: str, stdin: bytes = b"") -> TdxError:
    error = call(*words, stdin=stdin).exception
    assert isinstance(error, TdxError), error
    assert error.hint
    return error


def test_fetch_for_a_quote(server: PcsServer, boot: Recorded) -> None:
    Path("quote").write_bytes(boot.evidence.quote)
    document = json.loads(run("fetch", "quote", "--source", server.origin, "-o", "out.json", "--json").stdout)
    assert read_collateral(Path("out.json").read_bytes()) == boot.collateral
    subject = subject_of(boot.collateral)
    assert document == {
        "output": "out.json",
        "form": "own",
        "collateral": [
            {
                "tee": "TDX",
                "fmspc": subject.platform.fmspc.hex(),
                "ca": "platform",
                "evaluation_number": 20,
                "emulated": True,
                "state": "current",
                "next_update": document["collateral"][0]["next_update"],
            }
        ],
    }
    assert datetime.fromisoformat(document["collateral"][0]["next_update"]) > NOW + timedelta(days=20)


def test_fetch_of_a_quote_in_hex_on_standard_input_to_standard_output(
    server: PcsServer, boot: Recorded
) -> None:
    done = run(
        "fetch",
        "-",
        "--source",
        server.origin,
        "-o",
        "-",
        "--to",
        "dcap-qvl",
        stdin=boot.evidence.quote.hex().encode(),
    )
    assert read_collateral(done.stdout_bytes) == boot.collateral
    assert "emulated" in done.stderr


def test_fetch_for_a_platform_uses_the_cache(server: PcsServer, boot: Recorded) -> None:
    fmspc = subject_of(boot.collateral).platform.fmspc.hex()
    words = ("fetch", "--fmspc", fmspc, "--source", server.origin, "-o", "out.json")
    run(*words)
    assert "wrote  TDX FMSPC" in run(*words).stdout
    assert len(server.requests) == 4
    run(*words, "--offline")
    run(*words, "--refresh")
    assert len(server.requests) == 8
    run(*words, "--early")
    assert server.requests[8].endswith("update=early")


def test_failed_fetch_writes_nothing(server: PcsServer) -> None:
    error = refused("fetch", "--fmspc", OTHER, "--source", server.origin, "-o", "out.json")
    assert isinstance(error, UnavailableError)
    assert not Path("out.json").exists()
    error = refused("fetch", "--fmspc", OTHER, "--source", server.origin, "-o", "out.json", "--offline")
    assert "not in the cache" in error.message


def test_dry_run_prints_addresses_and_asks_nobody(boot: Recorded) -> None:
    shown = run("fetch", "--fmspc", OTHER, "-o", "out.json", "--dry-run").stdout.splitlines()
    assert shown[0] == (
        "would fetch  https://api.trustedservices.intel.com/tdx/certification/v4/tcb?fmspc=00806F050000&update=standard"
    )
    assert shown[-1] == "would write  out.json"
    document = json.loads(
        run(
            "fetch",
            "--fmspc",
            OTHER,
            "--source",
            "pccs",
            "--evaluation",
            "18",
            "-o",
            "x",
            "--dry-run",
            "--json",
        ).stdout
    )
    assert document["urls"][3] == "https://localhost:8081/sgx/certification/v4/rootcacrl"
    assert document["urls"][0].endswith("tcbEvaluationDataNumber=18")
    assert json.loads(run("fetch", "--fmspc", OTHER, "--dry-run", "--json").stdout)["output"] == "-"
    assert list(Path().iterdir()) == []


def test_api_key_comes_from_a_file_or_the_environment(
    server: PcsServer, boot: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    fmspc = subject_of(boot.collateral).platform.fmspc.hex()
    words = ("fetch", "--fmspc", fmspc, "--source", server.origin, "-o", "out.json", "--refresh")
    monkeypatch.setenv("TDX_API_KEY", "from-environment")
    run(*words)
    Path("key").write_text("from-file\n")
    run(*words, "--api-key-file", "key")
    sent = [headers.get(API_KEY_HEADER.lower()) for headers in server.request_headers]
    assert sent == ["from-environment"] * 4 + ["from-file"] * 4
    Path("key").write_text("two\nlines\n")
    assert "holds no API key" in refused(*words, "--api-key-file", "key").message


def test_proxy_comes_from_the_environment(
    server: PcsServer, boot: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    fmspc = subject_of(boot.collateral).platform.fmspc.hex()
    words = ("fetch", "--fmspc", fmspc, "--source", "http://pccs.example", "--allow-http", "-o", "out.json")
    monkeypatch.setenv("http_proxy", server.origin.removeprefix("http://"))
    run(*words)
    assert server.requests[0].startswith("http://pccs.example/tdx/")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    run(*words[:3], "--source", server.origin, "-o", "out.json")
    assert server.requests[4].startswith("/tdx/")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-o", "x"), "one of QUOTE and --fmspc"),
        (("quote", "--fmspc", OTHER, "-o", "x"), "one of QUOTE and --fmspc"),
        (("quote", "--ca", "platform", "-o", "x"), "go with --fmspc"),
        (("--fmspc", "zz", "-o", "x"), "'zz' is not hexadecimal"),
        (("--fmspc", "00", "-o", "x"), "has 1 bytes, not 6"),
        (
            ("--fmspc", OTHER, "-o", "x", "--early", "--evaluation", "18"),
            "--early and --evaluation contradict",
        ),
        (("--fmspc", OTHER, "-o", "x", "--offline", "--refresh"), "--refresh and --offline contradict"),
        (("--fmspc", OTHER, "-o", "x", "--source", "http://pccs.example"), "has no TLS"),
        (("--fmspc", OTHER, "-o", "x", "--source", "https://u:p@pccs.example"), "user name or password"),
    ],
)
def test_fetch_refuses(words: tuple[str, ...], message: str) -> None:
    error = refused("fetch", *words)
    assert isinstance(error, UsageError)
    assert message in error.message


def test_show(boot: Recorded) -> None:
    Path("file").write_bytes(boot.collateral.to_json())
    shown = run("show", "file").stdout
    for text in ("emulated", "tcb_info", "current", "UpToDate", "OutOfDate", "TDX_01", "TD_QE", "0 revoked"):
        assert text in shown
    document = json.loads(run("show", "file", "--json").stdout)
    (one,) = document["collateral"]
    assert {item["item"]: item["state"] for item in one["items"]} == dict.fromkeys(
        [
            "tcb_info",
            "qe_identity",
            "pck_crl",
            "root_ca_crl",
            "pck_crl_issuer_chain",
            "tcb_info_issuer_chain",
            "qe_identity_issuer_chain",
        ],
        "current",
    )
    assert one["state"] == "current"
    assert [level["status"] for level in one["tcb_levels"]] == ["UpToDate", "OutOfDate"]
    assert len(one["tcb_levels"][0]["tdx_components"]) == 16
    assert one["tdx_modules"][0]["levels"][0]["status"] == "UpToDate"
    assert one["qe_identity"]["evaluation_number"] == 20


@pytest.mark.parametrize(("days", "state"), [(-2, "not_yet_valid"), (31, "expired"), (3, "current")])
def test_show_marks_items_as_of_a_time(boot: Recorded, days: int, state: str) -> None:
    Path("file").write_bytes(boot.collateral.to_json())
    at = (NOW + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%S+0000")
    assert state in run("show", "file", "--at", at).stdout
    document = json.loads(run("show", "file", "--at", at, "--json").stdout)
    states = {item["item"]: item["state"] for item in document["collateral"][0]["items"]}
    assert document["collateral"][0]["state"] == state
    assert {states[name] for name in ("tcb_info", "qe_identity", "pck_crl", "root_ca_crl")} == {state}


def test_show_what_is_damaged(boot: Recorded) -> None:
    damaged = replace(boot.collateral, tcb_info=b"\x1b[31mdamaged", qe_identity_issuer_chain=b"")
    Path("file").write_bytes(damaged.to_json())
    shown = run("show", "file").stdout
    assert "unreadable" in shown
    assert "\x1b[31mdamaged" not in shown
    (one,) = json.loads(run("show", "file", "--json").stdout)["collateral"]
    assert (one["state"], one["tcb_levels"], one["fmspc"]) == ("unreadable", None, None)
    assert one["items"][0]["problem"].startswith("the document has")


def test_show_of_many_platforms(boot: Recorded, other: Recorded) -> None:
    Path("file").write_bytes(intel_tool.write([boot.collateral, other.collateral]))
    shown = run("show", "file").stdout
    assert OTHER in shown
    assert "add --fmspc" in shown
    assert f"TDX FMSPC {OTHER}" in run("show", "file", "--fmspc", OTHER).stdout
    assert "nothing for that platform" in refused("show", "file", "--fmspc", "00" * 6).message
    assert "nothing for that platform" in refused("show", "file", "--ca", "processor").message


def test_show_of_something_else() -> None:
    Path("file").write_bytes(b"{}")
    assert isinstance(refused("show", "file"), MalformedError)


def test_bundle_merges_and_converts(boot: Recorded, other: Recorded) -> None:
    Path("one").write_bytes(boot.collateral.to_json())
    Path("two").write_bytes(other.collateral.to_dcap_qvl_json())
    for form in ("own", "intel"):
        done = run("bundle", "one", "two", "one", "--to", form, "-o", form)
        assert done.stdout.count("wrote") == 2
        assert len(read_all(Path(form).read_bytes())) == 2
    run("bundle", "one", "own", "--fmspc", OTHER, "--to", "dcap-qvl", "-o", "three")
    assert Path("three").read_bytes() == Path("two").read_bytes()
    assert "one platform, not 2" in refused("bundle", "own", "--to", "dcap-qvl", "-o", "four").message
    assert "no collateral to write" in refused("bundle", "own", "--evaluation", "3", "-o", "four").message
    assert (
        len(
            json.loads(
                run("bundle", "own", "--evaluation", "20", "-o", "four", "--dry-run", "--json").stdout
            )["collateral"]
        )
        == 2
    )
    assert not Path("four").exists()
    assert run("bundle", "own", "--dry-run").stdout.splitlines()[-1].startswith("to  -  (own form")


def test_output_goes_to_one_place(boot: Recorded) -> None:
    Path("one").write_bytes(boot.collateral.to_json())
    assert run("bundle", "one", "-o", "-").stdout_bytes == Path("one").read_bytes()
    assert run("bundle", "one").stdout_bytes == Path("one").read_bytes()
    assert "both go" in refused("bundle", "one", "--json").message
    assert "cannot be written" in refused("bundle", "one", "-o", "absent/file").message
