"""The checkpoint store: one SQLite file beside the job file, shared by both channels and by every job that names it.

It mirrors the tags and keeps what people ask for: states, events, the engine's last report. The sync itself does not
depend on it: the tags in the sites are what counts, so a caller may go on after a StoreError and say so.

- WAL mode (where the file system can): readers never wait for the engine; a killed writer leaves whole transactions.
- synchronous=NORMAL: a power cut may take the last transactions, never part of one. The tags have them anyway.
- All tables are bounded but `jobs`, `checkpoints` and `reports`, which have a fixed number of rows for each job.

Sources: SQLite docs, "Write-Ahead Logging" and "PRAGMA synchronous".
"""

import contextlib
import errno
import json
import os
import pathlib
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from bisync.core.states import state_named
from bisync.errors import StoreError

APPLICATION_ID = 0x42695379  # "BiSy" in the file's header: tells our files from other programs' databases
VERSION = 1  # of the tables; a newer bisync raises it
BUSY_TIMEOUT_S = 5.0  # how long a write waits for another process's transaction; those take milliseconds
STATES_KEPT = 1_000  # state changes for each job, the newest
EVENTS_KEPT = 10_000  # events for each job, the newest
TRIM_EVERY = 100  # rows added between two trims: the most that a table may be over its bound
TEXT_MAX = 4_000  # characters of a reason or an event; a longer one is cut
WAL_BYTES_MAX = 8 * 1024 * 1024  # the WAL file shrinks back to this after a burst

_SCHEMA = (
    "CREATE TABLE jobs (name TEXT PRIMARY KEY, topology TEXT NOT NULL, sites TEXT NOT NULL,"
    " created_ms INTEGER NOT NULL)",
    "CREATE TABLE checkpoints (job TEXT NOT NULL, channel TEXT NOT NULL, tag TEXT NOT NULL,"
    " saved_at_ms INTEGER NOT NULL, PRIMARY KEY (job, channel))",
    "CREATE TABLE states (id INTEGER PRIMARY KEY, job TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL,"
    " at_ms INTEGER NOT NULL)",
    "CREATE INDEX states_of_job ON states (job, id)",
    "CREATE TABLE events (id INTEGER PRIMARY KEY, job TEXT NOT NULL, at_ms INTEGER NOT NULL, level TEXT NOT NULL,"
    " kind TEXT NOT NULL, text TEXT NOT NULL)",
    "CREATE INDEX events_of_job ON events (job, id)",
    "CREATE TABLE reports (job TEXT PRIMARY KEY, report TEXT NOT NULL, at_ms INTEGER NOT NULL)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)
_KEPT = {"states": STATES_KEPT, "events": EVENTS_KEPT}
_MOVE_AWAY = "name another file with `store` in the job file, or move this one away"
_RIGHTS = "give this user the right to write the file and its folder, or name another file with `store` in the job file"
_HINTS = {  # SQLite's result code -> the user's next step
    sqlite3.SQLITE_FULL: "make room on the disk; nothing else is needed, the next save works again",
    sqlite3.SQLITE_IOERR: "look at the disk (is it full?); the next save works again once it can be written",
    sqlite3.SQLITE_BUSY: "find the program that keeps the file locked",
    sqlite3.SQLITE_READONLY: _RIGHTS,
    sqlite3.SQLITE_CANTOPEN: "see that the folder can be written and the disk is not full",
    sqlite3.SQLITE_CORRUPT: "move the file away and start again: the tags in the sites have all that is needed",
    sqlite3.SQLITE_NOTADB: _MOVE_AWAY,
}
_HEALING = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY)
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


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
        self._inside = False  # in a transaction that the lock's holder began
        self._added: dict[tuple[str, str], int] = {}  # (table, job) -> rows added by this object

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
        real = pathlib.Path(os.path.realpath(path))  # also: ":memory:" is a file's name here, as any other
        _inspect(real, create)
        with _renamed_errors(path):
            db = sqlite3.connect(real, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
            try:
                _prepare(db, path)
            except BaseException:
                db.close()
                raise
        return cls(path, db)

    def close(self) -> None:
        """Close the file. May be called again."""
        with self._lock, _renamed_errors(self.path):
            self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Saves in the block take effect together or, after any exception, not at all. One inside another joins it.

        Other threads wait until it ends. Raises StoreError where the commit fails.
        """
        with self._lock:
            if self._inside:
                yield
                return
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
        """Forget what the job was and how far it came. Its history of states and its events stay."""
        with self.transaction():
            self._run("DELETE FROM checkpoints WHERE job = ?", job)
            self._run("DELETE FROM reports WHERE job = ?", job)
            self._run("DELETE FROM jobs WHERE name = ?", job)

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

    # Within

    def _run(self, sql: str, *values: object) -> list[Any]:
        """Run one statement and fetch all its rows."""
        with self._lock, _renamed_errors(self.path):
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


def _inspect(path: pathlib.Path, create: bool) -> None:
    """See that the file may be used, without changing it. Creates an empty one if it is missing."""
    try:
        if create and not path.exists():
            with contextlib.suppress(FileExistsError):  # another process was faster
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        found = path.stat()
    except FileNotFoundError as e:
        raise _missing(path) from e
    except OSError as e:
        why, full = e.strerror or str(e), e.errno in _FULL_DISK
        hint = _HINTS[sqlite3.SQLITE_FULL] if full else _RIGHTS
        raise StoreError(f"{path} cannot be opened", why=why, hint=hint, heals=full) from e
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f"{path} is {'a folder' if path.is_dir() else 'no plain file'}", hint=_MOVE_AWAY)
    if not os.access(path, os.R_OK | os.W_OK):
        raise StoreError(f"{path} cannot be opened", why="no right to read and write it", hint=_RIGHTS)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        why = f"SQLite creates files beside it, and there is no right to write in {path.parent}"
        raise StoreError(f"{path} cannot be opened", why=why, hint=_RIGHTS)
    if found.st_size:
        _check_header(path)
    elif not create:
        raise StoreError(f"{path} is empty", why="no engine has run the job yet", hint="start it with `bisync run`")


def _missing(path: pathlib.Path) -> StoreError:
    """The error for a file that is not there."""
    if path.parent.exists():
        why, hint = "no engine has run the job yet", "start it with `bisync run`, or correct `store` in the job file"
    else:
        why, hint = f"there is no folder {path.parent}", "create the folder, or correct `store` in the job file"
    return StoreError(f"there is no store file {path}", why=why, hint=hint)


def _check_header(path: pathlib.Path) -> None:
    """Raises StoreError where the file's header says that it is not for us.

    Read by SQLite and not by `open`: closing a file of our own would drop the locks that another Store of this process
    holds on it ("How To Corrupt An SQLite Database File", 2.2). `immutable` keeps SQLite from writing anything.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as db:
            _check_ours(path, *_numbers(db))
    except sqlite3.Error as e:
        # This look takes no lock, so an engine that is just writing makes the file seem damaged. Whether it is, the
        # real connection tells.
        if _code(e) != sqlite3.SQLITE_CORRUPT:
            raise StoreError(f"{path} is not a store of bisync", why=str(e), hint=_MOVE_AWAY) from e


def _numbers(db: sqlite3.Connection) -> tuple[int, int]:
    """(application id, version) of the tables."""
    application, version = (db.execute(f"PRAGMA {w}").fetchone()[0] for w in ("application_id", "user_version"))
    return application, version


def _check_ours(path: pathlib.Path, application: int, version: int) -> None:
    """Raises StoreError where the header's numbers are not those of a store that this version can use."""
    if application != APPLICATION_ID:
        raise StoreError(f"{path} is not a store of bisync", why="another program's SQLite database", hint=_MOVE_AWAY)
    if version != VERSION:
        raise StoreError(
            f"{path} was written by {'a newer' if version > VERSION else 'another'} version of bisync",
            why=f"its tables have version {version}, this bisync knows version {VERSION}",
            hint=f"use that version of bisync for this job, or {_MOVE_AWAY}",
        )


def _prepare(db: sqlite3.Connection, path: pathlib.Path) -> None:
    """Set the connection up, and the tables where there are none: a new file, or one whose maker was killed over it."""
    if _numbers(db) == (0, 0):
        db.execute("BEGIN IMMEDIATE")  # a second process that also found it empty waits here
        if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in _SCHEMA:
                db.execute(statement)
        db.execute("COMMIT")
    # Once more, and now with what may still be in the WAL file.
    _check_ours(path, *_numbers(db))
    _use_wal(db)
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_MAX}")


def _use_wal(db: sqlite3.Connection) -> None:
    """Switch the file to WAL mode. Where its file system cannot, it stays as it is: slower, and safe as well."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as e:
            # The switch needs the file for itself, and SQLite does not wait for that as it does for other locks.
            if _code(e) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@contextlib.contextmanager
def _renamed_errors(path: pathlib.Path) -> Iterator[None]:
    """What SQLite raises becomes a StoreError with SQLite's words as the reason."""
    try:
        yield
    except sqlite3.Error as e:
        hint, heals = _HINTS.get(_code(e), ""), _code(e) in _HEALING
        raise StoreError(f"{path}: the checkpoint store failed", why=str(e), hint=hint, heals=heals) from e


def _code(error: sqlite3.Error) -> int:
    """The primary result code, which is the low byte; 0 for misuse of the module itself, such as a closed store."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _valid(text: str) -> str:
    """SQLite takes no lone surrogates, and a key's name in an error text may have brought some."""
    return text.encode("utf-8", "backslashreplace").decode()


def _fit(text: str) -> str:
    """The text, in valid UTF-8 and within TEXT_MAX characters."""
    text = _valid(text)
    return text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "…"


def _and(names: Sequence[str]) -> str:
    return " and ".join(names)
