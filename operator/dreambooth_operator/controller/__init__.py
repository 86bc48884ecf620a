"""The operator in a cluster: watches DreamBoothJobs and brings what they need about.

handlers   kopf: an event in, a key onto the queue
store      what the watches said, as small views
observed   everything that is known about one job at one moment
reconcile  pure: decide(observed, now) -> decision
cluster    observes and acts: the only module that talks to the API server
"""
