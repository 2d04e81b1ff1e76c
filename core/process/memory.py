"""Memory that is given back to the system once it is free."""

import asyncio
import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's names of them, from malloc.h
# What is larger lives outside of the heap, and goes back as soon as it is free. The pieces of bodies are smaller: to
# ask the system for one takes twenty times as long as to copy it.
LARGE_BYTES = 1 << 20
GIVE_BACK_SECONDS = 10.0


async def giving_memory_back() -> None:
    """Give back what is free, again and again until it is canceled: glibc by itself keeps whatever lies below something
    small, in each of its heaps, of which each thread may have one. Does nothing if there is no glibc."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        return
    libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
    libc.mallopt(M_TRIM_THRESHOLD, LARGE_BYTES)  # of the end of each heap, which malloc_trim passes by
    while True:
        await asyncio.sleep(GIVE_BACK_SECONDS)
        await asyncio.to_thread(libc.malloc_trim, 0)
