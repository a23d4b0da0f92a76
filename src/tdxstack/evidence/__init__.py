"""Evidence from inside a TD: TDREPORT, quote, event log and registers, bound to a nonce and a host key.

Runs in the guest as `python3 -m tdxstack.evidence`, from a zipapp, with Python's standard library only
(3.11 or newer). The zipapp needs `tdxstack/__init__.py`, `errors.py` and `exchange.py` beside it, and the
packages `tdxstack.abi` and `tdxstack.evidence`.
"""
