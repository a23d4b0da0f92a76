"""Compositions of the parts: what a user asks for in one sentence."""
