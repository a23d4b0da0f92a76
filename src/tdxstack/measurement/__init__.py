"""What the measurement registers of a TD must hold, computed from what it was started with."""
