"""What a machine will measure, worked out from what it is made of."""
