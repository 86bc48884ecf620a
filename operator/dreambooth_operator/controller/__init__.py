"""The operator in a cluster: watches DreamBoothJobs and brings what they need about.

handlers   kopf: watches, and passes on what it hears
intake     what is heard goes into the store, and the key that it concerns onto the queue
store      what the watches said, as small views
resync     lists everything, at the start and regularly: what a watch missed is mended
queue      keys that are due: each once, delayed, backed off
worker     takes a key: observe, decide, act, and when to look again
cluster    observes and acts: the only module that talks to the API server about jobs
observed   everything that is known about one job at one moment
reconcile  pure: decide(observed, now, policy) -> decision
poller     asks rank 0 of each running job how far it is
leader     of several replicas, the one that holds a Lease acts
metrics    what the operator tells Prometheus of itself; job_metrics, facts: of each job
vitals     what /healthz and /readyz say
running    puts the parts together, starts and stops them
"""
