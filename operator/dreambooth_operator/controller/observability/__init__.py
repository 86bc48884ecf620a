"""The operator's metrics and their definitions, and its liveness and readiness probes."""
