"""Trains one DreamBoothJob."""
