"""tiny-flow: a small flow-matching transformer in Z-Image's layout, trained on a CPU."""
