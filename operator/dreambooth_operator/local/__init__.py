"""Runs an attempt's pods as processes on this machine."""
