"""The acceptance suite: what a host that runs machines must be able to do, one module a subject.

`tdx test` runs it; so does `pytest -p tdxstack.testing.plugin --pyargs tdxstack.testing.acceptance`.
"""
