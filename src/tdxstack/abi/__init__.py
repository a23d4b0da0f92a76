"""Byte formats of TDX: parsing and serialising, with no I/O and no dependency."""
