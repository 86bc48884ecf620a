"""Words whose embeddings are learned (textual inversion: Gal et al. 2022)."""
