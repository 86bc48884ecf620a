"""Checks of a job that need no GPU."""
