"""From what is observed of a job to what is to be done about it. Pure."""
