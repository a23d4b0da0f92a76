"""Entry of `python3 -m tdxstack.evidence`."""

from __future__ import annotations

import sys

from tdxstack.evidence.cli import main
from tdxstack.evidence.kernel import Kernel

sys.exit(main(sys.argv[1:], Kernel(), sys.stdout.buffer, sys.stderr))
