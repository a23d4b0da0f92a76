"""QEMU as a program: its monitor."""
