"""Doing what the store lacks: pictures are read and judged in threads while the network works on the next one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dehaze_zoo.benchmark.pictures import Album
from dehaze_zoo.benchmark.scoring import Judge, Wanted
from dehaze_zoo.benchmark.store import Score, Store
from dehaze_zoo.benchmark.subjects import JudgedSet, Restorer
from dehaze_zoo.inference.reporting import failure

READERS = 4
COMMIT_EVERY = 2.0
"""Seconds; what a kill can cost."""

Item = TypeVar("Item")


@dataclass
class Report:
    """What a run did. ``forward`` and ``wall`` in seconds, of the judging alone."""

    judged: int = 0
    kept: int = 0
    """Pictures that the store had already."""
    forward: float = 0.0
    wall: float = 0.0
    failed: list[dict[str, str]] = field(default_factory=list)


def overlapped(
    items: Iterable[Item],
    read: Callable[[Item], Any],
    work: Callable[[Item, Any], Any],
    finish: Callable[[Item, Any, Any], Any],
    depth: int = 2,
) -> Iterator[tuple[Item, Any]]:
    """Each item, in order, with what ``finish(item, read, worked)`` gave, or the exception that any of the three raised.

    ``read`` runs in threads and ahead, ``finish`` in a thread behind, ``work`` here: nothing waits for a disk or a metric. At most
    ``READERS`` + 1 items are read ahead and ``depth`` + 1 wait behind, however many there are.
    """
    with ThreadPoolExecutor(READERS, "read") as readers, ThreadPoolExecutor(1, "judge") as judge:
        coming: deque[tuple[Item, Future[Any]]] = deque()
        going: deque[tuple[Item, Future[Any] | Exception]] = deque()
        rest = iter(items)
        try:
            while True:
                for item in rest:
                    coming.append((item, readers.submit(read, item)))
                    if len(coming) > READERS:
                        break
                if coming:
                    item, arriving = coming.popleft()
                    try:
                        held = arriving.result()
                        going.append((item, judge.submit(finish, item, held, work(item, held))))
                    except Exception as error:  # whatever one picture does to a decoder or a network, the others go on
                        going.append((item, error))
                while going and (len(going) > depth or not coming):
                    item, outcome = going.popleft()
                    yield item, outcome if isinstance(outcome, Exception) else outcome.exception() or outcome.result()
                if not coming and not going:
                    return
        finally:
            readers.shutdown(wait=False, cancel_futures=True)
            judge.shutdown(wait=False, cancel_futures=True)


def run_job(
    store: Store, job: int, label: str, restorer: Restorer, judged: JudgedSet, judge: Judge, album: Album, advance: Callable[[], object]
) -> Report:
    """Judges every picture of the set that lacks a figure or an example, and adds the figures to the store every other second.

    A picture that cannot be read, restored or judged is a failure {"file", "why"}, and so is a figure that the store does not take; the
    rest goes on, and failures are tried again next time.
    """
    report = Report()
    todo = plan(store, job, judged, judge, album)
    report.kept = len(judged.images) - len(todo)
    for _ in range(report.kept):
        advance()
    names = {number: image for image, number in judged.images.items()}
    numbers = [judged.images[image] for image in todo] + list(judged.strays)
    if not numbers:
        return report

    def work(number: int, sample: dict[str, Any]) -> Any:
        start = time.perf_counter()
        try:
            return restorer(sample["hazy"][None], names[number])
        finally:
            report.forward += time.perf_counter() - start

    def finish(number: int, sample: dict[str, Any], restored: Any) -> tuple[list[Score], dict[str, Exception]]:
        image = names[number]
        hazy, clear = sample["hazy"][None].to(restored.device), sample.get("clear")
        clear = None if clear is None else clear[None].to(restored.device)
        scores, failed = judge(image, restored, hazy, clear, todo[image])
        first = next((score.value for score in scores if score.metric == "psnr"), None)
        album.offer(image, first, hazy, restored, clear)
        return scores, failed

    def keep() -> None:
        for score, why in store.add(job, pending):
            what = " ".join(filter(None, (score.protocol, score.metric)))
            report.failed.append({"model": label, "data": judged.label, "file": f"{score.image} ({what})", "why": why})
        pending.clear()

    pending: list[Score] = []
    start = committed = time.perf_counter()
    try:
        for number, outcome in overlapped(numbers, judged.pairs.__getitem__, work, finish):
            image = names.get(number, f"picture {number}")
            if isinstance(outcome, Exception):
                report.failed.append({"model": label, "data": judged.label, **failure(image, outcome)})
            else:
                scores, failed = outcome
                pending += scores
                report.judged += 1
                for metric, error in failed.items():
                    report.failed.append({"model": label, "data": judged.label, **failure(f"{image} ({metric})", error)})
            if time.perf_counter() - committed > COMMIT_EVERY:
                keep()
                committed = time.perf_counter()
            advance()
    finally:
        keep()
        report.wall = time.perf_counter() - start
    return report


def plan(store: Store, job: int, judged: JudgedSet, judge: Judge, album: Album) -> dict[str, Wanted]:
    """The pictures with something left to do, and which figures; none for an example that only lacks its picture."""
    wanted = judge.wanted(judged.paired)
    done: dict[str, set[tuple[str, str]]] = {}
    for score in store.scores(job):
        done.setdefault(score.image, set()).add((score.protocol, score.metric))
    lacking = album.missing()
    left = {image: frozenset(wanted - done.get(image, set())) for image in judged.images}
    return {image: figures for image, figures in left.items() if figures or image in lacking}
