"""Control over what glibc does with freed memory."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of its malloc.h


def keep_freed_memory() -> None:
    """Let the process keep what it has freed for the next call, which takes it again.

    By default glibc maps every large array anew, and the kernel clears each page when it is first touched.
    The process stays as large as its largest step. Does nothing with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
