"""Adapters: where they go, how they are added, trained and exported."""
