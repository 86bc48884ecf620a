"""A node agent: registers a Node and runs the pods that are bound to it as local processes."""
