"""Metrics, progress and experiment trackers."""
