"""Observes a job, decides, executes the decision, and writes the status once."""
