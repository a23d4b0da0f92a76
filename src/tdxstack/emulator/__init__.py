"""The emulating QEMU: where its source comes from, how it is patched and built, and where the result is."""
