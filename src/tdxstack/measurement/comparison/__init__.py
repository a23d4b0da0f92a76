"""What differs between two measurements, why, and what to do about it. Pure, given both."""
