"""Tests of a host: a pytest plugin with the machines that tests share, and the acceptance suite."""
