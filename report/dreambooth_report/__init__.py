"""The report of a run: one HTML file, built from what the run has stored."""
