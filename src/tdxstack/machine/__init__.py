"""Machines: a specification, the QEMU command line it becomes, and the running instance."""
