"""The operator as a process: start, settings, logging and permissions."""
