"""This process among the ranks: topology, signals, heartbeat, errors and exit status."""
