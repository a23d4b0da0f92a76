"""GRUB's configuration, followed up to the kernel that GRUB starts by itself."""
