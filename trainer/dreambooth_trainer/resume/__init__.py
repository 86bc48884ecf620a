"""Resuming: the state to go on from, and whether it is one that the job may go on from."""
