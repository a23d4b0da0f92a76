"""The relying party: is this evidence true, and good enough? Pure: every input and the time are given."""
