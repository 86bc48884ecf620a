"""What comes out of a job: scores, exports, records of trackers."""
