"""Samples and scores of the model."""
