"""The checks of `tdx doctor`, by what they look at."""
