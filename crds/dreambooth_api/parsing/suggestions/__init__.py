"""What to write in place of a field or a value that is not valid."""
