"""Job files as kubectl reads them, and validation errors in plain words."""
