"""The file of the checkpoint store: telling it from other files, its tables, and bringing old ones up to date.

A file of an older version is brought up to date when it is opened, in one transaction; engines of the older version
that have it open go on with the tables that they know.

Sources: SQLite docs, "Write-Ahead Logging", "PRAGMA synchronous" and "Database File Format".
"""

import contextlib
import errno
import os
import pathlib
import sqlite3
import stat
import time
from collections.abc import Iterator

from bisync.errors import StoreError, said
from bisync.runtime.conflict_table import SCHEMA as CONFLICTS
from bisync.runtime.conflict_table import SERVERS

APPLICATION_ID = 0x42695379  # "BiSy" in the file's header: tells our files from other programs' databases
VERSION = 4  # of the tables; a newer bisync raises it
BUSY_TIMEOUT_S = 5.0  # how long a write waits for another process's transaction; those take milliseconds
WAL_BYTES_MAX = 8 * 1024 * 1024  # the WAL file shrinks back to this after a burst

_FIRST = (  # the tables of version 1
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
)
_SETTINGS = (
    "CREATE TABLE settings (job TEXT NOT NULL, name TEXT NOT NULL, value INTEGER NOT NULL, changed_ms INTEGER NOT NULL,"
    " PRIMARY KEY (job, name))",
)
_STEPS = (_FIRST, CONFLICTS, SERVERS, _SETTINGS)  # what leads from each version to the next one, from none to the first

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


def open_database(path: pathlib.Path, *, create: bool) -> sqlite3.Connection:
    """A connection to the store at `path`, its tables up to date. May be used by any thread, one at a time.

    With `create` a missing file is made, readable for its owner only. Raises StoreError, and leaves the file as it is,
    where it is missing (without `create`), not a store of ours, from a newer version, or cannot be read and written.
    """
    real = pathlib.Path(os.path.realpath(path))  # also: ":memory:" is a file's name here, as any other
    _inspect(real, create)
    with renamed_errors(path):
        db = sqlite3.connect(real, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            _prepare(db, path)
        except BaseException:
            db.close()
            raise
    return db


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
        why, full = said(e), e.errno in _FULL_DISK
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
    if not 0 < version <= VERSION:
        raise StoreError(
            f"{path} was written by {'a newer' if version > VERSION else 'another'} version of bisync",
            why=f"its tables have version {version}, this bisync knows version {VERSION}",
            hint=f"use that version of bisync for this job, or {_MOVE_AWAY}",
        )


def _prepare(db: sqlite3.Connection, path: pathlib.Path) -> None:
    """Set the connection up, and the tables where there are none: a new file, or one whose maker was killed over it."""
    numbers = _numbers(db)
    if numbers == (0, 0) or numbers[0] == APPLICATION_ID and 0 < numbers[1] < VERSION:
        db.execute("BEGIN IMMEDIATE")  # a second process that also found it so waits here
        _bring_up_to_date(db)
        db.execute("COMMIT")
    # Once more, and now with what may still be in the WAL file.
    _check_ours(path, *_numbers(db))
    _use_wal(db)
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_MAX}")


def _bring_up_to_date(db: sqlite3.Connection) -> None:
    """Within a transaction: all steps from the version that the file has now."""
    application, version = _numbers(db)
    if application != APPLICATION_ID and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        return  # another program was quicker to take the empty file
    for number in range(version, VERSION):
        for statement in _STEPS[number]:
            db.execute(statement)
    if version < VERSION:
        db.execute(f"PRAGMA user_version = {VERSION}")


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
def renamed_errors(path: pathlib.Path) -> Iterator[None]:
    """A block in which what SQLite raises becomes a StoreError with SQLite's words as the reason."""
    try:
        yield
    except sqlite3.Error as e:
        hint, heals = _HINTS.get(_code(e), ""), _code(e) in _HEALING
        raise StoreError(f"{path}: the checkpoint store failed", why=str(e), hint=hint, heals=heals) from e


def _code(error: sqlite3.Error) -> int:
    """The primary result code, which is the low byte; 0 for misuse of the module itself, such as a closed store."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
