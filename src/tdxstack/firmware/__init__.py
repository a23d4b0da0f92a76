"""TDVF: the firmware that TDs start with, found on the host or fetched from the distribution."""
