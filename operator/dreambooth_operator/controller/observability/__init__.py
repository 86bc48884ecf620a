"""The operator's own metrics and health."""
