"""What is known of the cluster: watches, cache, resync, work queue and the progress of trainers."""
