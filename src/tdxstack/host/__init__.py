"""The host: explanations of what it says, its set-up and its TDX module."""
