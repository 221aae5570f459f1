"""The results store: one SQLite file to which rows are only ever added; a kill at any moment leaves it whole."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
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

    Raises UsageError where the folder cannot be written, the file is no store, or a newer version wrote it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "results.sqlite"
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
        with self._db:
            self._db.execute("INSERT OR IGNORE INTO jobs (key, about) VALUES (?, ?)", (key, json.dumps(about, sort_keys=True)))
        (number,) = self._db.execute("SELECT id FROM jobs WHERE key = ?", (key,)).fetchone()
        return int(number)

    def add(self, job: int, scores: Iterable[Score]) -> None:
        """Scores of a job, all or none. One that is there with the same value is left; raises UsageError where the values differ."""
        with self._db:
            for score in scores:
                try:
                    self._db.execute("INSERT INTO scores VALUES (?, ?, ?, ?, ?)", (job, *score))
                except sqlite3.IntegrityError as error:
                    held = self._db.execute(
                        "SELECT value FROM scores WHERE job = ? AND image = ? AND protocol = ? AND metric = ?", (job, *score[:3])
                    ).fetchone()
                    if held is None or held[0] != score.value:
                        what = " ".join(filter(None, (score.image, score.protocol, score.metric)))
                        raise UsageError(
                            f"{self.path}: duplicate row for job {job}, {what}: it holds {held and held[0]}, {score.value} was measured.\n"
                            "Something changes the results that the job's key does not know of; name another store=DIR."
                        ) from error

    def scores(self, job: int) -> list[Score]:
        """All scores of a job, in the order of images' names."""
        return [Score(*row) for row in self._db.execute("SELECT image, protocol, metric, value FROM scores WHERE job = ?", (job,))]

    def cost(self, key: str) -> dict[str, Any] | None:
        """The figures kept under this key, or None."""
        row = self._db.execute("SELECT figures FROM costs WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def add_cost(self, key: str, about: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
        with self._db:
            self._db.execute(
                "INSERT OR IGNORE INTO costs (key, about, figures) VALUES (?, ?, ?)", (key, json.dumps(about), json.dumps(figures))
            )


def _statements() -> Iterable[str]:
    """_TABLES one by one: executescript would end the transaction that keeps a half-made store from being seen."""
    pending = ""
    for line in _TABLES.splitlines():
        pending += line + "\n"
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
