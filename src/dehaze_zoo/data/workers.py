"""How the processes that handle pictures by the thousand are set up."""

from __future__ import annotations

import ctypes
import sys

import cv2

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def set_up_worker(_: int) -> None:
    """One thread for OpenCV, whose own do not survive a fork, and memory kept: the workers are the threads."""
    cv2.setNumThreads(0)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """glibc keeps what is freed: pictures come and go by the megabyte, and getting pages anew costs up to half the time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 2**25)
        mallopt(_TRIM_THRESHOLD, 2**28)
