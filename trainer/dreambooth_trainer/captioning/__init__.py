"""Captions, prompts and a check of photos by a vision-language model."""
