"""`file://`: a file system with the semantics of S3."""
