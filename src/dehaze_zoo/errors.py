"""The errors a user can cause, and the wording they share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """Wrong use: says what, where and what to do, in a few lines. The verbs print it without a traceback and exit with 2."""


class ImageError(UsageError):
    """A picture that cannot be read or used; ``file`` names it and ``why`` says what is wrong.

    The verbs that work through many pictures report it and go on with the rest.
    """

    def __init__(self, file: object, why: str, remedy: str = "") -> None:
        self.file, self.why, self.remedy = str(file), why, remedy
        super().__init__(f"{file}: {why}" + (f"\n{remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str, str]]:
        return type(self), (self.file, self.why, self.remedy)  # so that a loader's worker can send it


def near_misses(name: str, options: Iterable[str]) -> str:
    """A sentence that offers the closest of ``options``, or all of them where none is close."""
    options = sorted(set(options))
    close = difflib.get_close_matches(name, options, n=3, cutoff=0.6)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"There are: {', '.join(options)}." if options else "There are none."
