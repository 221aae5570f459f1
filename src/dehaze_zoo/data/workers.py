"""How a loader's worker process is set up."""

from __future__ import annotations

import ctypes
import sys

import cv2

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def set_up_worker(_: int) -> None:
    """One thread, and freed memory is kept: pictures come and go by the megabyte, and pages anew cost up to half the time."""
    cv2.setNumThreads(0)  # the workers are the threads; OpenCV's own do not survive a fork
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # glibc
        mallopt(_MMAP_THRESHOLD, 2**25)
        mallopt(_TRIM_THRESHOLD, 2**28)
