"""Install the host packages that the tests need, where this is root; elsewhere say which are missing.

`python -m tests.prepare_host`, from `test.sh`. Tests whose program stays missing are skipped.
"""

from __future__ import annotations

import os
import sys

from tdxstack.cli.edge import INSTALL_LOG, now
from tdxstack.errors import UnavailableError
from tdxstack.toolbox import host_packages


def main() -> None:
    try:
        absent = host_packages.missing(host_packages.needed(["tests"]))
        host_packages.install(absent, log=INSTALL_LOG, uid=os.geteuid(), now=now())
    except UnavailableError as error:
        print(f"{error.message}\n{error.hint}", file=sys.stderr)


if __name__ == "__main__":
    main()
