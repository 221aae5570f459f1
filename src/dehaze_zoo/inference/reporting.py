"""What the verbs over many pictures share: reading ahead, a progress bar, failures, files of figures."""

from __future__ import annotations

import csv
import io
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dehaze_zoo.data.images import write_aside
from dehaze_zoo.errors import ImageError

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(work: Callable[[Item], Result], items: Iterable[Item], depth: int = 2) -> Iterator[tuple[Item, Future[Result]]]:
    """Each item, in order, with its ``work`` done in a thread while the caller is busy with the one before.

    ``result()`` of the future gives what ``work`` returned or raises what it raised. At most ``depth`` results wait.
    """
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(1, "ahead") as thread:
        try:
            for item in items:
                waiting.append((item, thread.submit(work, item)))
                if len(waiting) > depth:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            thread.shutdown(cancel_futures=True)


def progress_bar() -> Progress:
    """A bar on stderr with count, time gone and time left; add a task to it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def failure(file: object, error: BaseException) -> dict[str, str]:
    """An entry of report.json's ``failed``: which file, and why in one line."""
    if isinstance(error, ImageError):
        return {"file": error.file, "why": f"{error.why}. {error.remedy}".rstrip(". ")}
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return {"file": str(file), "why": first if first and first[0].isalpha() else f"{type(error).__name__}: {first}".rstrip(": ")}


def say_failures(failed: Sequence[Mapping[str, str]], shown: int = 5) -> None:
    """The first failures on stderr, a line each, and how many more."""
    console = Console(stderr=True, soft_wrap=True)
    for entry in failed[:shown]:
        console.print(f"[red]failed[/] {escape(entry['file'])}: {escape(entry['why'])}", highlight=False)
    if len(failed) > shown:
        console.print(f"[red]failed[/] {len(failed) - shown} more: see report.json", highlight=False)


def write_json(path: Path, content: Any) -> None:
    """A JSON file, written aside and renamed. Raises ImageError where it cannot be written, ValueError for NaN or infinity."""
    write_aside(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV file with the keys of the first row as columns, written aside and renamed."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_aside(path, text.getvalue().encode())
