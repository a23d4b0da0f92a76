"""Services of the distribution do their work in a TD."""

from __future__ import annotations

import pytest

from tdxstack.machine.spec_parts import Kind
from tdxstack.testing.acceptance.test_network import answer
from tdxstack.testing.machines import SERVICE_PORT, Laboratory

REQUESTS = 200
CLIENTS = 5


@pytest.mark.td
def test_redis(laboratory: Laboratory) -> None:
    """Redis answers every request of its benchmark, and keeps what it was given through a restart."""
    machine = laboratory.shared(Kind.TD)
    machine.run(["systemctl", "start", "redis-server"])
    words = ["redis-benchmark", "--csv", "-n", str(REQUESTS), "-c", str(CLIENTS), "-t", "get,set"]
    rows = [line.split(",") for line in machine.run(words).stdout.decode().splitlines()]
    rates = {row[0].strip('"'): float(row[1].strip('"')) for row in rows[1:]}
    assert set(rates) == {"GET", "SET"}
    assert all(rate > 0 for rate in rates.values())
    machine.run(["redis-cli", "set", "kept", "through a restart"])
    machine.run(["redis-cli", "save"])
    machine.run(["systemctl", "restart", "redis-server"])
    assert machine.run(["redis-cli", "get", "kept"]).stdout.decode().strip() == "through a restart"


@pytest.mark.td
def test_nginx(laboratory: Laboratory) -> None:
    """Nginx serves a file of the guest to its host, again and again."""
    machine = laboratory.shared(Kind.TD)
    site = f"server {{ listen {SERVICE_PORT}; root /srv/acceptance; }}"
    script = 'mkdir -p /srv/acceptance; cat > /srv/acceptance/page; echo "$1" > /etc/nginx/conf.d/page.conf'
    page = "".join(f"line {number}\n" for number in range(1000))
    machine.run(["sh", "-c", script, "sh", site], input=page.encode())
    machine.run(["systemctl", "restart", "nginx"])
    try:
        port = laboratory.port_to(machine, SERVICE_PORT)
        assert [answer(port, "/page") for _ in range(REQUESTS)] == [page] * REQUESTS
    finally:
        machine.run(["systemctl", "stop", "nginx"])
