"""Runs DreamBoothJobs on Kubernetes, or on one machine."""
