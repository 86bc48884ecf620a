"""What the operator observes: kopf's watches, the cache, resyncs, the work queue, progress."""
