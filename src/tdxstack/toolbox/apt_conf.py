"""The configuration of a private apt.

Of the host's apt configuration only the settings of the network are taken over (proxies, TLS certificates,
passwords of mirrors): without them there is no archive behind a company's proxy. The rest is left out on
purpose. It has hooks that would run on every update, pins and default releases that would change which
versions are chosen, and on container images a hook that deletes what was downloaded.
"""

from __future__ import annotations

import re
from pathlib import Path

from tdxstack.run import run

RETRIES = 3
"""How often apt tries again where a download fails, with growing pauses."""

_DUMP_SECONDS = 60.0
_NETWORK_SETTING = re.compile(r"Acquire::(?:https?::|ForceIPv[46] ).*;")


def apt_conf(directory: Path) -> str:
    """An apt.conf(5) that keeps everything of apt's below `directory`, with the host's network settings."""
    settings = {
        "Dir": directory,
        "Dir::State": directory / "state",
        "Dir::State::status": directory / "state/status",
        "Dir::Cache": directory / "cache",
        "Dir::Etc": directory / "etc",
        "Dir::Etc::sourcelist": directory / "etc/archive.sources",
        "Dir::Etc::netrc": "/etc/apt/auth.conf",
        "Dir::Etc::netrcparts": "/etc/apt/auth.conf.d",
        "Acquire::Languages": "none",
        "Acquire::GzipIndexes": "true",
        "Acquire::Retries": RETRIES,
        "Acquire::http::Timeout": "30",
        "Acquire::https::Timeout": "30",
        "Acquire::AllowInsecureRepositories": "false",
        "Acquire::AllowDowngradeToInsecureRepositories": "false",
        # the dates are judged by `Release`, which can also let an old one pass with a warning
        "Acquire::Check-Date": "false",
        "Acquire::Check-Valid-Until": "false",
        "APT::Architecture": "amd64",
        "APT::Get::AllowUnauthenticated": "false",
        "APT::Install-Recommends": "false",
        "APT::Keep-Downloaded-Packages": "true",
        # root's and users' caches are closed to the account that apt would change to
        "APT::Sandbox::User": "root",
    }
    return "\n".join(
        [*_host_network_settings(), *(f'{key} "{value}";' for key, value in settings.items()), ""]
    )


def _host_network_settings() -> list[str]:
    dump = run(["apt-config", "dump"], timeout=_DUMP_SECONDS).stdout.decode(errors="replace")
    return [line for line in dump.splitlines() if _NETWORK_SETTING.fullmatch(line)]
