"""Where a model's files come from, and which of them training loads."""
