"""`dreambooth sweep`: one job for each combination of values."""
