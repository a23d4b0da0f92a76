"""The Linux stack for Intel TDX: launch Trust Domains, measure them, prove what they booted."""

__version__ = "0.1.0"
