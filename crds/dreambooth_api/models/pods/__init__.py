"""The pods that run a job."""
