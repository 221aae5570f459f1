"""The results store: one SQLite file to which rows are only ever added; a kill at any moment leaves it whole."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from dehaze_zoo.errors import UsageError

VERSION = 1
"""Of the tables below; a store written by a newer version is refused, not guessed at."""

_TABLES = """
CREATE TABLE jobs (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, about TEXT NOT NULL, made TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE scores (job INTEGER NOT NULL REFERENCES jobs(id), image TEXT NOT NULL, protocol TEXT NOT NULL, metric TEXT NOT NULL,
    value REAL NOT NULL, PRIMARY KEY (job, image, protocol, metric)) WITHOUT ROWID;
CREATE TABLE costs (key TEXT PRIMARY KEY, about TEXT NOT NULL, figures TEXT NOT NULL, made TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP);
""" + "".join(
    f"CREATE TRIGGER {table}_{verb} BEFORE {verb} ON {table} BEGIN SELECT RAISE(ABORT, 'the store is append-only'); END;\n"
    for table in ("jobs", "scores", "costs")
    for verb in ("UPDATE", "DELETE")
)


class Score(NamedTuple):
    """One figure of one picture."""

    image: str
    protocol: str
    """"" where the protocol does not matter."""
    metric: str
    value: float


class Store:
    """DIR/results.sqlite. A job is a network with its weights on a set, told by a hash; its scores are rows.

    ``parameters``: of metrics that have some, a hash. Their figures are kept as metric@hash, and those of other parameters are not found;
    nor are those of stores older than this, which do not tell.

    Raises UsageError where the folder cannot be written, the file is no store, or a newer version wrote it; later on, from every method,
    where the disk is full or another program holds the file.
    """

    def __init__(self, folder: Path, parameters: Mapping[str, str] = MappingProxyType({})) -> None:
        self.folder, self.path = folder, folder / "results.sqlite"
        self._kept_as = {metric: f"{metric}@{mark}" for metric, mark in parameters.items()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=60)
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")  # two programs that make one store at once take turns
                (version,) = self._db.execute("PRAGMA user_version").fetchone()
                if version == 0:
                    for statement in _statements():
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version = {VERSION}")
        except OSError as error:
            raise UsageError(f"store={folder} cannot be written: {error.strerror}.") from error
        except sqlite3.OperationalError as error:
            raise self._unusable(error) from error
        except sqlite3.Error as error:
            raise UsageError(f"{self.path}: is no results store, or is damaged ({error}).\nName another store=DIR.") from error
        if version > VERSION:
            raise UsageError(
                f"{self.path} was written by a newer dehaze_zoo (store version {version}, this one knows {VERSION}).\n"
                "Update dehaze_zoo, or name another store=DIR."
            )

    def close(self) -> None:
        self._db.close()

    def job(self, key: str, about: Mapping[str, Any]) -> int:
        """The number of the job with this key, added where it is new."""
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO jobs (key, about) VALUES (?, ?)", (key, json.dumps(about, sort_keys=True)))
            (number,) = db.execute("SELECT id FROM jobs WHERE key = ?", (key,)).fetchone()
        return int(number)

    def find(self, key: str) -> int | None:
        """The number of the job with this key, None where there is none."""
        with self._transaction() as db:
            row = db.execute("SELECT id FROM jobs WHERE key = ?", (key,)).fetchone()
        return None if row is None else int(row[0])

    def abouts(self) -> list[dict[str, Any]]:
        """What was said of each job when it was added, in that order."""
        with self._transaction() as db:
            return [json.loads(about) for (about,) in db.execute("SELECT about FROM jobs ORDER BY id").fetchall()]

    def add(self, job: int, scores: Iterable[Score]) -> list[tuple[Score, str]]:
        """Scores of a job; returns those that were not taken, and why: no number, or another value is there, which stays."""
        refused = []
        with self._transaction() as db:
            for score in scores:
                if not math.isfinite(score.value):
                    refused.append((score, f"the figure is {score.value}"))
                    continue
                place = (job, score.image, score.protocol, self._kept_as.get(score.metric, score.metric))
                if db.execute("INSERT OR IGNORE INTO scores VALUES (?, ?, ?, ?, ?)", (*place, score.value)).rowcount:
                    continue
                (held,) = db.execute(
                    "SELECT value FROM scores WHERE job = ? AND image = ? AND protocol = ? AND metric = ?", place
                ).fetchone()
                if held != score.value:
                    why = (
                        f"the store holds {held}, {score.value} was measured: something changes results that the job's key does not know of"
                    )
                    refused.append((score, why))
        return refused

    def scores(self, job: int) -> list[Score]:
        """All scores of a job, in the order of images' names."""
        with self._transaction() as db:
            rows = db.execute("SELECT image, protocol, metric, value FROM scores WHERE job = ?", (job,)).fetchall()
        metrics = {kept: metric for metric, kept in self._kept_as.items()}
        found = [
            Score(image, protocol, metrics.get(kept, kept), value) for image, protocol, kept, value in rows if kept not in self._kept_as
        ]
        return [score for score in found if "@" not in score.metric]

    def cost(self, key: str) -> dict[str, Any] | None:
        """The figures kept under this key, or None."""
        with self._transaction() as db:
            row = db.execute("SELECT figures FROM costs WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def add_cost(self, key: str, about: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO costs (key, about, figures) VALUES (?, ?, ?)", (key, json.dumps(about), json.dumps(figures)))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it, or none."""
        try:
            with self._db:
                yield self._db
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: sqlite3.Error) -> UsageError:
        return UsageError(
            f"{self.path} cannot be used: {error}.\n"
            "Make room on its disk, let the program that holds it end, or name another store=DIR. A repeated call goes on where it stopped."
        )


def _statements() -> Iterable[str]:
    """_TABLES one by one: executescript would end the transaction that keeps a half-made store from being seen."""
    pending = ""
    for line in _TABLES.splitlines():
        pending += line + "\n"
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
