"""The host: whether it is ready for TDs, explanations of what it says, its set-up and its TDX module."""
