"""Entry of `python3 -m tdxstack.evidence`, and of `tdx-guest` in a guest image."""

from __future__ import annotations

import os
import sys

from tdxstack.evidence.cli import main
from tdxstack.evidence.kernel import Kernel

try:
    code = main(sys.argv[1:], Kernel(), sys.stdout.buffer, sys.stderr)
except BrokenPipeError:
    # The reader has gone (tdx-guest eventlog | head): say nothing more, also not at interpreter exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    code = 1
sys.exit(code)
