"""Warnings about jobs that are valid and probably not what was meant."""
