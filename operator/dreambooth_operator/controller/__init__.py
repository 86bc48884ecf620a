"""The operator in a cluster: watches DreamBoothJobs and creates the objects that they need.

Folders, from the top down; each imports only from those below it:

app             start, settings, logging, permissions
observability   metrics, and the liveness and readiness probes
reconciler      takes a key from the queue: observe, decide, execute, write the status once
watch           kopf's watches, the cache, resyncs, the work queue, progress
decide          pure: decide(observed, now, policy) -> decision
kube            the API server: client, errors, session, clock, leader election, snapshots
"""
