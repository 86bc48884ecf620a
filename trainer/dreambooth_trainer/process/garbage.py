"""Imports without the garbage collector, which finds nothing to free among modules."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_objects() -> Iterator[None]:
    """Keep all objects that the block creates, and let no later collection look at them.

    torch, diffusers and transformers create half a million, which take a fifth of the time of their
    import to look through again and again, and then 0.4 s in each full collection of the training.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
