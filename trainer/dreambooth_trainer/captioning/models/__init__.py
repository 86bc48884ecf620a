"""The models that are asked: in the pods, or behind an endpoint."""
