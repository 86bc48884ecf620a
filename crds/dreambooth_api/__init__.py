"""The DreamBoothJob API, the only definition of a job."""
