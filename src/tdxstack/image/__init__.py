"""Guest images."""
