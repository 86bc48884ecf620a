"""Generates the page of models from the registry."""
