"""Memory that is given back to the system once it is free."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's names of them, from malloc.h
LARGE_BYTES = 128 * 1024


def give_memory_back() -> None:
    """Have what is large live outside of the heap, and go back to the system when it is free. glibc does so at first,
    and after the first large free keeps up to 64 MB for each of its heaps, of which each thread may have one. Does
    nothing where there is no glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(M_TRIM_THRESHOLD, LARGE_BYTES)
