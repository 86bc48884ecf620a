"""Training objectives: noising, target and weight."""
