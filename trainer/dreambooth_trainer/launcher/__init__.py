"""Starts the ranks of a pod, and watches them."""
