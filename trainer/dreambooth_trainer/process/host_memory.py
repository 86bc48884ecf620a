"""Memory of this process that nothing uses any more."""

import ctypes


def return_freed_memory() -> None:
    """Return the free pages of the C library's heaps to the system (malloc_trim(3)).

    glibc keeps them: most freed memory lies below memory in use, and blocks of up to 32 MB come
    from the heaps once one of that size was freed. Other C libraries have no such function.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
