"""`s3://`: AWS S3, and the servers that speak its protocol."""
