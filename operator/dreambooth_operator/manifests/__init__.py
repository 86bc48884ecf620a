"""The Kubernetes objects of a job, as pure functions of the job."""
