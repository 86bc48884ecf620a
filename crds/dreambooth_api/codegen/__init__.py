"""Generates the CRD and the reference from the models."""
