"""One attempt of a job, from the first checkpoint to the exported model."""
