"""Commands that use the result of a run."""
