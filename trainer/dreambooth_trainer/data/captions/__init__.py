"""Captions of images: files, their rules, and the orders of their tags."""
