"""The best checkpoint: evaluations during training, and what is decided by them."""
