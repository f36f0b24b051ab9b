"""How a training process holds memory: what a step frees, the next one gets again."""

import ctypes

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
OWN_MAPPING_BYTES = 64 * 2**20
"""What is larger is mapped by itself, and given back when it is freed."""
KEPT_BYTES = 512 * 2**20


def keep_freed_memory() -> None:
    """Has the C library keep up to half a gigabyte of what is freed, for this process.

    Left alone it gives the tensors of every step back to the system, and each page of the next step's is
    made and cleared anew: a fifth of the time of a small student on a CPU. Where the library is not glibc
    nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, OWN_MAPPING_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
