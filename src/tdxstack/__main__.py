"""`python -m tdxstack` is the command `tdx`."""

from tdxstack.cli import main

main()
