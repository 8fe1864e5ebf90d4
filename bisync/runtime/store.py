"""The checkpoint store: one SQLite file beside the job file, shared by both channels and by every job that names it.

It mirrors the tags and keeps what people ask for: states, events, the engine's last report, and the log of conflicts
(`bisync.runtime.conflict_table`). The sync itself does not depend on it: the tags in the sites are what counts, so a
caller may go on after a StoreError and say so.

- WAL mode (where the file system can): readers never wait for the engine; a killed writer leaves whole transactions.
- synchronous=NORMAL: a power cut may take the last transactions, never part of one. The tags have them anyway; what
  they have not, conflicts, is written by `durable` transactions.
- All tables are bounded but `jobs`, `checkpoints`, `reports` and `settings`, which have a fixed number of rows for each
  job.
- The log of conflicts holds values of the sites' data, so the file is for its owner's eyes only.

Source: SQLite docs, "Write-Ahead Logging".
"""

import contextlib
import json
import os
import pathlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from bisync.core.states import state_named
from bisync.errors import StoreError
from bisync.runtime.conflict_table import ConflictTable
from bisync.runtime.store_file import open_database, renamed_errors

STATES_KEPT = 1_000  # state changes for each job, the newest
EVENTS_KEPT = 10_000  # events for each job, the newest
TRIM_EVERY = 100  # rows added between two trims: the most that a table may be over its bound
TEXT_MAX = 4_000  # characters of a reason or an event; a longer one is cut

_KEPT = {"states": STATES_KEPT, "events": EVENTS_KEPT}


@attrs.frozen
class StateChange:
    """A job entered a state."""

    state: str  # one of bisync.core.states.STATES
    reason: str  # why, for people; may be empty
    at_ms: int  # ms since 1970, the engine's clock


@attrs.frozen
class Event:
    """Something that happened to a job and that a person may want to know."""

    at_ms: int  # ms since 1970, the engine's clock
    level: str  # as in a log: "info", "warning", "error"
    kind: str  # a short word that scripts may look for
    text: str  # one or a few sentences


class StoreMoved(StoreError):
    """The store's file is not in its place any more, and what would be written goes nobody knows where."""


class Store:
    """An open checkpoint store. Made by `Store.open`; a context manager that closes at its end.

    May be called from any thread; one call runs at a time. Every method raises StoreError where SQLite fails, and the
    store stays usable: the failed call has changed nothing, and the next one works when the cause is gone.
    Texts hold no passwords, as callers pass none.
    """

    def __init__(self, path: pathlib.Path, db: sqlite3.Connection) -> None:
        self.path = path
        self._db = db
        self._lock = threading.RLock()
        self._file = _file_at(path)
        self._inside = False  # in a transaction that the lock's holder began
        self._added: dict[tuple[str, str], int] = {}  # (table, job) -> rows added by this object
        self.conflicts = ConflictTable(self._run, self.transaction)

    def __repr__(self) -> str:
        return f"<Store {self.path}>"

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def open(cls, path: pathlib.Path, *, create: bool = True) -> "Store":
        """Open the store at `path`, a file; with `create` make it (readable for its owner only) where there is none.

        Raises StoreError, and leaves the file as it is, where it is missing (without `create`), not a store of ours,
        from a newer version, or cannot be read and written by this user.
        """
        return cls(path, open_database(path, create=create))

    def check_in_place(self) -> None:
        """Raises StoreMoved where another file, or none, has the path since the store was opened.

        SQLite goes on in the file that it has open, so that a reader of the path never sees it. `close` completes that
        file: what SQLite keeps beside it, under the old name, is brought into it.
        """
        if _file_at(self.path) != self._file:
            raise StoreMoved(
                f"{self.path} was moved or removed while it was in use",
                why="what it held goes with it, the log of conflicts too",
                hint="a new store begins in its place; to go on with the old one, stop the engine and put it back",
                heals=True,
            )

    def close(self) -> None:
        """Close the file. May be called again."""
        with self._lock, renamed_errors(self.path):
            if _file_at(self.path) != self._file:
                # SQLite itself leaves the WAL file where it is then, and the next database of this name deletes it.
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._db.close()

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """Saves in the block take effect together or, after any exception, not at all. One inside another joins it.

        With `durable` they are on the disk when the block ends, and survive a power cut too. Other threads wait until
        it ends. Raises StoreError where the commit fails.
        """
        with self._lock:
            if self._inside:
                yield
                return
            if durable:
                self._run("PRAGMA synchronous = FULL")
            try:
                with self._alone():
                    yield
            finally:
                if durable:
                    self._run("PRAGMA synchronous = NORMAL")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """A transaction that is not inside another one."""
        self._run("BEGIN IMMEDIATE")  # at once, so that the wait for another writer is here and not in the middle
        self._inside = True
        try:
            yield
            self._run("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        finally:
            self._inside = False

    # Jobs and checkpoints

    def record_job(self, job: str, topology: str, sites: Sequence[str], at_ms: int) -> None:
        """Remember the job with its topology and its sites' names, the forward source first.

        Raises StoreError where the name is known with another topology or other sites: its checkpoints mean something
        else then.
        """
        with self.transaction():
            known = self._run("SELECT topology, sites FROM jobs WHERE name = ?", job)
            if not known:
                self._run("INSERT INTO jobs VALUES (?, ?, ?, ?)", job, topology, json.dumps(list(sites)), at_ms)
        if known and (known[0][0], json.loads(known[0][1])) != (topology, list(sites)):
            raise StoreError(
                f"{self.path}: job {job!r} is recorded as {known[0][0]} between {_and(json.loads(known[0][1]))},"
                f" and the job file says {topology} between {_and(sites)}",
                why="the checkpoints of the one mean nothing to the other",
                hint="give the job another name or another store file, or forget the recorded one with `bisync reset`",
            )

    def save_checkpoint(self, job: str, channel: str, tag: str, at_ms: int) -> None:
        """Mirror the tag of a channel ("forward" or "reverse") that the target has just accepted."""
        with self.transaction():
            self._run("INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?)", job, channel, tag, at_ms)

    def checkpoint(self, job: str, channel: str) -> str | None:
        """The last tag saved for the channel; None where there is none."""
        rows = self._run("SELECT tag FROM checkpoints WHERE job = ? AND channel = ?", job, channel)
        return rows[0][0] if rows else None

    def forget_job(self, job: str) -> None:
        """Forget what the job was and how far it came. Its states, events and conflicts stay, as history, and
        what `save_settings` has changed.
        """
        with self.transaction():
            self._run("DELETE FROM checkpoints WHERE job = ?", job)
            self._run("DELETE FROM reports WHERE job = ?", job)
            self._run("DELETE FROM jobs WHERE name = ?", job)
            self.conflicts.close_history(job)

    # History

    def enter_state(self, job: str, state: str, reason: str, at_ms: int) -> None:
        """Note that the job entered a state; the same state with the same reason again is not noted.

        Raises ValueError where it is no state of `bisync.core.states`.
        """
        name, reason = state_named(state).name, _fit(reason)
        with self.transaction():
            last = self.state(job)
            if last is None or (last.state, last.reason) != (name, reason):
                self._run("INSERT INTO states VALUES (NULL, ?, ?, ?, ?)", job, name, reason, at_ms)
                self._trim("states", job)

    def state(self, job: str) -> StateChange | None:
        """The newest state of the job; None where none was noted."""
        newest = self.states(job, 1)
        return newest[0] if newest else None

    def states(self, job: str, limit: int = 100) -> list[StateChange]:
        """The newest state changes, at most `limit`, newest last."""
        return [StateChange(*row) for row in self._newest("states", "state, reason, at_ms", job, limit)]

    def add_event(self, job: str, at_ms: int, level: str, kind: str, text: str) -> None:
        """Note an event; its text is cut to TEXT_MAX characters."""
        with self.transaction():
            self._run("INSERT INTO events VALUES (NULL, ?, ?, ?, ?, ?)", job, at_ms, level, kind, _fit(text))
            self._trim("events", job)

    def events(self, job: str, limit: int = 100) -> list[Event]:
        """The newest events, at most `limit`, newest last."""
        return [Event(*row) for row in self._newest("events", "at_ms, level, kind, text", job, limit)]

    # The engine's report

    def save_report(self, job: str, report: Mapping[str, Any], at_ms: int) -> None:
        """Replace the job's report with this one. It must be JSON: raises StoreError where it is not."""
        try:
            text = json.dumps(dict(report), allow_nan=False)
        except (TypeError, ValueError) as e:
            raise StoreError(f"{self.path}: the report of job {job!r} is not JSON", why=str(e)) from e
        with self.transaction():
            self._run("INSERT OR REPLACE INTO reports VALUES (?, ?, ?)", job, text, at_ms)

    def report(self, job: str) -> tuple[dict[str, Any], int] | None:
        """The newest report and when it was saved (ms since 1970); None where there is none."""
        rows = self._run("SELECT report, at_ms FROM reports WHERE job = ?", job)
        if not rows:
            return None
        try:
            return dict(json.loads(rows[0][0])), rows[0][1]
        except (TypeError, ValueError) as e:
            raise StoreError(f"{self.path}: the report of job {job!r} is damaged", why=str(e)) from e

    # What may change while the engine runs

    def save_settings(self, job: str, values: Mapping[str, int | None], at_ms: int) -> None:
        """Change settings of the job by name; None takes one back, so that the job file's value counts again."""
        with self.transaction():
            for name, value in values.items():
                if value is None:
                    self._run("DELETE FROM settings WHERE job = ? AND name = ?", job, name)
                else:
                    self._run("INSERT OR REPLACE INTO settings VALUES (?, ?, ?, ?)", job, name, value, at_ms)

    def settings(self, job: str) -> dict[str, int]:
        """The settings of the job that were changed, by name."""
        return dict(self._run("SELECT name, value FROM settings WHERE job = ? ORDER BY name", job))

    # Within

    def _run(self, sql: str, *values: object) -> list[Any]:
        """Run one statement and fetch all its rows."""
        with self._lock, renamed_errors(self.path):
            # A full disk ends a transaction from within SQLite. What follows in the block must then not be committed
            # statement by statement.
            if self._inside and not self._db.in_transaction:
                raise StoreError(f"{self.path}: the transaction was given up after an earlier error in it")
            return self._db.execute(sql, tuple(_valid(v) if isinstance(v, str) else v for v in values)).fetchall()

    def _roll_back(self) -> None:
        """Undo an open transaction, if SQLite has not done so itself. The error that led here is the one to report."""
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _newest(self, table: str, columns: str, job: str, limit: int) -> list[Any]:
        """The newest rows of a job, newest last, never more than the bound of the table."""
        sql = f"SELECT {columns} FROM {table} WHERE job = ? ORDER BY id DESC LIMIT ?"
        return self._run(sql, job, max(0, min(limit, _KEPT[table])))[::-1]

    def _trim(self, table: str, job: str) -> None:
        """Delete what is over the bound: at this object's first row for the job, and then every TRIM_EVERY rows."""
        added = self._added.get((table, job), 0)
        self._added[table, job] = added + 1
        if added % TRIM_EVERY == 0:
            oldest = f"SELECT id FROM {table} WHERE job = ? ORDER BY id DESC LIMIT 1 OFFSET ?"
            self._run(f"DELETE FROM {table} WHERE job = ? AND id <= ({oldest})", job, job, _KEPT[table])


def _file_at(path: pathlib.Path) -> tuple[int, int] | None:
    """Which file it is, whatever its name; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _valid(text: str) -> str:
    """SQLite takes no lone surrogates, and a key's name in an error text may have brought some."""
    return text.encode("utf-8", "backslashreplace").decode()


def _fit(text: str) -> str:
    """The text, in valid UTF-8 and within TEXT_MAX characters."""
    text = _valid(text)
    return text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "…"


def _and(names: Sequence[str]) -> str:
    return " and ".join(names)
