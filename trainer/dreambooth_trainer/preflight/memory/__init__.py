"""The GPU memory of a job, measured on shapes alone, and what makes it fit."""
