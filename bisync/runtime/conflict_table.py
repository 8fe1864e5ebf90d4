"""The log of conflicts in the checkpoint store: one row for each conflict, with enough to put the loser's value back.

Rows are added and updated by the engine, a batch in one transaction; people's programs read at the same time. The
oldest leave by age, number and size; one that is open never does.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import attrs

from bisync.core.actions import Conflict, ConflictingWrite, Replaced
from bisync.core.commands.places import FUNCTIONS, Element
from bisync.runtime.conflict_record import OPEN, SETTLED, ConflictRecord, Server, Servers, Told, lies_before, overlap

Unit = tuple[int, bytes, Element | None]
"""Database as the source numbers it, key, and element (None: the whole key)."""

PAGE = 100  # records that are read at a time: with values of 64 KiB some MB
LOOK_BACK = 16  # records of a unit that are looked at together, the newest first
LOOKS_MAX = 64  # so often: beyond it a conflict that is found again is recorded anew
TRIM_EVERY = 1_000  # records added between two trims, or one in a hundred where there are many
TRIM_EVERY_MS = 3_600_000  # also where nothing is added
TRIMMED_MAX = 10_000  # records that leave in one trim: the rest goes with the next ones
ROW_BYTES = 400  # what a row takes besides its values, about

SCHEMA = (
    "CREATE TABLE conflicts (id INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL, epoch INTEGER NOT NULL,"
    " number INTEGER NOT NULL, found_ms INTEGER NOT NULL, settled_ms INTEGER, undone_ms INTEGER, state TEXT NOT NULL,"
    " database INTEGER NOT NULL, key BLOB NOT NULL, kind TEXT NOT NULL, name BLOB NOT NULL, policy TEXT NOT NULL,"
    " winner TEXT NOT NULL, rule TEXT NOT NULL, certain INTEGER NOT NULL, counts TEXT NOT NULL, offsets TEXT NOT NULL,"
    " writes TEXT NOT NULL, replaced_site TEXT, replaced_kind TEXT, replaced_expires_ms INTEGER,"
    " replaced_size INTEGER, replaced_digest TEXT, kept TEXT NOT NULL, size INTEGER NOT NULL, replaced_value BLOB)",
    "CREATE TABLE conflict_totals (job TEXT NOT NULL, kind TEXT NOT NULL, total INTEGER NOT NULL,"
    " PRIMARY KEY (job, kind))",
    # All that trimming and looking for times needs, so that no row with its value is read for it.
    "CREATE INDEX conflicts_of_job ON conflicts (job, id, state, found_ms, size)",
    "CREATE INDEX conflicts_of_life ON conflicts (job, epoch, number)",
    "CREATE INDEX conflicts_of_unit ON conflicts (job, database, key, kind, name)",
    "CREATE INDEX conflicts_open ON conflicts (job, database, key) WHERE state = 'open'",
)
SERVERS = (
    # Which servers the job's sites are, or, where it is closed, were before a reset.
    "CREATE TABLE servers (id INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL, closed INTEGER NOT NULL,"
    " sites TEXT NOT NULL)",
    "ALTER TABLE conflicts ADD COLUMN servers INTEGER",  # null: not known
)
_COLUMNS = (
    *("epoch", "number", "found_ms", "settled_ms", "undone_ms", "state", "database", "key", "kind", "name", "policy"),
    *("winner", "rule", "certain", "counts", "offsets", "writes", "replaced_site", "replaced_kind"),
    *("replaced_expires_ms", "replaced_size", "replaced_digest", "kept", "size", "replaced_value"),
)
_SELECT = f"SELECT id, {', '.join(c for c in _COLUMNS if c != 'size')} FROM conflicts"
_INSERT = (
    f"INSERT INTO conflicts (job, {', '.join(_COLUMNS)}, servers) VALUES (?{', ?' * len(_COLUMNS)},"
    " (SELECT max(id) FROM servers WHERE job = ? AND closed = 0))"
)
_UPDATE = f"UPDATE conflicts SET {', '.join(f'{c} = ?' for c in _COLUMNS)} WHERE id = ?"

Run = Callable[..., list[Any]]
"""Runs one SQL statement with its values and fetches all rows. Raises StoreError."""


@attrs.frozen
class Keep:
    """How much of the log of a job is kept."""

    days: int = 30
    entries: int = 100_000
    bytes: int = 256 << 20


@attrs.frozen
class Wanted:
    """Which records of a job are asked for; None and False: no matter."""

    since_ms: int | None = None  # found at or after this time
    until_ms: int | None = None  # found before this time
    database: int | None = None  # as the source numbers it
    winner: str | None = None  # the site that won
    replaced_at: str | None = None  # the site where a value was replaced
    only_open: bool = False
    only_uncertain: bool = False
    key: bytes | None = None  # exactly this one
    matches: Callable[[bytes], object] | None = None  # says of a key whether it is wanted


class ConflictTable:
    """The log of conflicts of all jobs in a store. All methods raise StoreError where the store cannot be used."""

    def __init__(self, run: Run, transaction: Callable[[], AbstractContextManager[None]]) -> None:
        self._run, self._transaction = run, transaction
        self._added: dict[str, int] = {}  # by job: records since the last trim
        self._trimmed_ms: dict[str, int] = {}  # by job: when it was last trimmed

    # -- writing
    def save(self, job: str, told: Iterable[Told]) -> None:
        """Add conflicts, or bring those that are known up to date, all in one transaction."""
        with self._transaction():
            for one in told:
                self._save(job, one)

    def _save(self, job: str, told: Told) -> None:
        conflict = told.conflict
        known = self._of_this_life(job, told)
        earlier = self._earlier(job, conflict, known.id if known is not None else 1 << 62)
        if earlier is not None:
            self._run(_UPDATE, *_row(earlier.updated(told)), earlier.id)
            if known is not None:  # it has grown into one that was known before
                self._drop([known.id])
                self._count(job, conflict, -1)
        elif known is not None:
            self._run(_UPDATE, *_row(known.updated(told)), known.id)
        else:
            self._run(_INSERT, job, *_row(ConflictRecord.of(told)), job)
            self._added[job] = self._added.get(job, 0) + 1
            self._count(job, conflict, 1)
        if conflict.state == SETTLED and conflict.element is None:
            # Those of its elements were settled with it.
            self._run(
                "UPDATE conflicts INDEXED BY conflicts_open SET state = 'settled', settled_ms = ?"
                " WHERE job = ? AND database = ? AND key = ? AND kind != '' AND state = 'open'",
                *(told.settled_ms, job, conflict.database, conflict.key),
            )

    def _count(self, job: str, conflict: Conflict, by: int) -> None:
        kind = "functions" if (conflict.database, conflict.key) == FUNCTIONS else (conflict.element or ("key",))[0]
        self._run(
            "INSERT INTO conflict_totals VALUES (?, ?, ?) ON CONFLICT (job, kind) DO UPDATE SET total = total + ?",
            *(job, kind, by, by),
        )

    def totals(self, job: str) -> dict[str, int]:
        """How many conflicts there were since the job began, by what they were about: those that have left as well."""
        return dict(self._run("SELECT kind, total FROM conflict_totals WHERE job = ? ORDER BY kind", job))

    def _of_this_life(self, job: str, told: Told) -> ConflictRecord | None:
        """The record of this conflict that this life has made, or has taken over."""
        number = told.conflict.number
        rows = self._run(f"{_SELECT} WHERE job = ? AND epoch = ? AND number = ?", job, told.epoch, number)
        return _record(rows[0]) if rows else None

    def _earlier(self, job: str, conflict: Conflict, below: int) -> ConflictRecord | None:
        """The record of this conflict that an earlier life made before it was cut short, with an id below this one."""
        kind, name = conflict.element or ("", b"")
        for _ in range(LOOKS_MAX):
            found = self._run(
                "SELECT id, offsets FROM conflicts WHERE job = ? AND database = ? AND key = ? AND kind = ? AND name = ?"
                " AND epoch > 0 AND id < ? ORDER BY id DESC LIMIT ?",
                *(job, conflict.database, conflict.key, kind, name, below, LOOK_BACK),
            )
            for id, text in found:
                offsets = _offsets(text)
                if overlap(offsets, conflict.offsets):
                    return self.get(job, id)
                if lies_before(offsets, conflict.offsets):
                    return None  # and so do all before it
                below = id
            if len(found) < LOOK_BACK:
                return None
        return None

    def settle_closed(self, job: str, epoch: int, still_open: Collection[Unit], at_ms: int) -> int:
        """Settle what lives before `epoch` left open and is open no more. How many records of theirs are still open.

        `still_open`: the units that this life is settling; a whole key stands for its elements.
        """
        with self._transaction():
            rows = self._run(
                "SELECT id, database, key, kind, name FROM conflicts INDEXED BY conflicts_open"
                " WHERE job = ? AND state = 'open' AND epoch < ?",
                *(job, epoch),
            )
            left = 0
            for id, database, key, kind, name in rows:
                element = (kind, name) if kind else None
                if (database, key, element) in still_open or (database, key, None) in still_open:
                    left += 1
                else:
                    self._run("UPDATE conflicts SET state = ?, settled_ms = ? WHERE id = ?", SETTLED, at_ms, id)
        return left

    def close_history(self, job: str) -> None:
        """The job begins anew: nothing of before is found again, and nothing of before will be settled."""
        self._run("UPDATE conflicts SET state = ? WHERE job = ? AND state = ?", SETTLED, job, OPEN)
        self._run("UPDATE conflicts SET epoch = 0 WHERE job = ? AND epoch > 0", job)
        self._run("DELETE FROM conflict_totals WHERE job = ?", job)
        self._run("UPDATE servers SET closed = 1 WHERE job = ?", job)
        self._run(
            "DELETE FROM servers WHERE job = ? AND id NOT IN"
            " (SELECT servers FROM conflicts WHERE job = ? AND servers IS NOT NULL)",
            *(job, job),
        )

    def forget_streams(self, job: str, before: int) -> None:
        """The job began anew in the epoch `before`: what earlier lives found stands in streams that nobody reads."""
        self._run("UPDATE conflicts SET epoch = 0 WHERE job = ? AND epoch > 0 AND epoch < ?", job, before)

    def save_servers(self, job: str, servers: Servers) -> None:
        """The job's sites are these now, as its tags and streams have shown: also those of the conflicts so far.

        Other ones, with the same names, are only there after `close_history`.
        """
        text = json.dumps({site: [server.address, server.history] for site, server in servers.items()})
        with self._transaction():
            if self._run("SELECT id FROM servers WHERE job = ? AND closed = 0", job):
                self._run("UPDATE servers SET sites = ? WHERE job = ? AND closed = 0", text, job)
            else:
                self._run("INSERT INTO servers VALUES (NULL, ?, 0, ?)", job, text)
            self._run(
                "UPDATE conflicts SET servers = (SELECT max(id) FROM servers WHERE job = ? AND closed = 0)"
                " WHERE job = ? AND epoch > 0 AND servers IS NULL",
                *(job, job),
            )

    def mark_undone(self, job: str, id: int, at_ms: int) -> None:
        """The loser's value was put back."""
        with self._transaction():
            self._run("UPDATE conflicts SET undone_ms = ? WHERE job = ? AND id = ?", at_ms, job, id)

    # -- trimming
    def trim_when_due(self, job: str, keep: Keep, now_ms: int) -> None:
        """Drop what is too old or too much, now and then: after many new records, and once an hour."""
        last_ms = self._trimmed_ms.get(job)
        if last_ms is not None and self._added.get(job, 0) < max(TRIM_EVERY, keep.entries // 100):
            if 0 <= now_ms - last_ms < TRIM_EVERY_MS:
                return
        done = self.trim(job, keep, now_ms)
        self._added[job] = 0
        if done:
            self._trimmed_ms[job] = now_ms
        else:
            self._trimmed_ms.pop(job, None)

    def trim(self, job: str, keep: Keep, now_ms: int) -> bool:
        """Drop settled records, the oldest first, that are beyond a bound. False: there are more to drop."""
        with self._transaction():
            old = self._run(
                "SELECT id FROM conflicts INDEXED BY conflicts_of_job"
                " WHERE job = ? AND state = 'settled' AND found_ms < ? ORDER BY id LIMIT ?",
                *(job, now_ms - keep.days * 86_400_000, TRIMMED_MAX),
            )
            self._drop([id for (id,) in old])
            entries, size = self._run(
                "SELECT count(*), total(size) FROM conflicts INDEXED BY conflicts_of_job WHERE job = ?", job
            )[0]
            over = self._oldest(job, entries - keep.entries, size - keep.bytes)
            self._drop(over)
        return len(old) + len(over) < TRIMMED_MAX

    def _oldest(self, job: str, entries: int, size: float) -> list[int]:
        """The ids of the oldest settled records, so many that at least `entries` and `size` bytes go with them."""
        ids: list[int] = []
        after = 0
        while len(ids) < TRIMMED_MAX and (len(ids) < entries or size > 0):
            page = self._run(
                "SELECT id, size FROM conflicts INDEXED BY conflicts_of_job"
                " WHERE job = ? AND state = 'settled' AND id > ? ORDER BY id LIMIT 500",
                *(job, after),
            )
            for id, bytes_ in page:
                if len(ids) >= TRIMMED_MAX or len(ids) >= entries and size <= 0:
                    break
                ids.append(id)
                size -= bytes_
            if len(page) < 500:
                break
            after = page[-1][0]
        return ids

    def _drop(self, ids: Sequence[int]) -> None:
        for at in range(0, len(ids), 500):
            some = ids[at : at + 500]
            self._run(f"DELETE FROM conflicts WHERE id IN ({', '.join('?' * len(some))})", *some)

    # -- reading
    def get(self, job: str, id: int) -> ConflictRecord | None:
        """The record of that number; None where the job has none."""
        rows = self._run(f"{_SELECT} WHERE id = ? AND job = ?", id, job)
        return _record(rows[0]) if rows else None

    def servers(self, job: str, id: int) -> Servers:
        """Which servers the sites were when the conflict of that number was found; without those that nobody knows."""
        rows = self._run(
            "SELECT sites FROM servers WHERE id = (SELECT servers FROM conflicts WHERE id = ? AND job = ?)", id, job
        )
        known = json.loads(rows[0][0]) if rows else {}
        return {site: Server(address, history) for site, (address, history) in known.items()}

    def find(self, job: str, wanted: Wanted = Wanted()) -> list[int]:
        """The ids of the records that are wanted, in the order in which they were found."""
        where, values = ["job = ?"], [job]
        for condition, value in _conditions(wanted):
            where.append(condition)
            values += [value] if "?" in condition else []
        if wanted.matches is None:
            rows = self._run(f"SELECT id FROM conflicts WHERE {' AND '.join(where)} ORDER BY id", *values)
            return [id for (id,) in rows]
        ids: list[int] = []
        sql, after = f"SELECT id, key FROM conflicts WHERE {' AND '.join([*where, 'id > ?'])} ORDER BY id LIMIT ?", 0
        while page := self._run(sql, *values, after, PAGE):
            ids += [id for id, key in page if wanted.matches(key)]
            after = page[-1][0]
        return ids

    def read(self, job: str, ids: Sequence[int]) -> Iterator[ConflictRecord]:
        """The records with these ids, in their order. Those that were dropped meanwhile are left out."""
        for at in range(0, len(ids), PAGE):
            some = ids[at : at + PAGE]
            among = ", ".join("?" * len(some))
            yield from map(_record, self._run(f"{_SELECT} WHERE job = ? AND id IN ({among}) ORDER BY id", job, *some))


def _conditions(wanted: Wanted) -> Iterator[tuple[str, Any]]:
    if wanted.since_ms is not None:
        yield "found_ms >= ?", wanted.since_ms
    if wanted.until_ms is not None:
        yield "found_ms < ?", wanted.until_ms
    if wanted.database is not None:
        yield "database = ?", wanted.database
    if wanted.winner is not None:
        yield "winner = ?", wanted.winner
    if wanted.replaced_at is not None:
        yield "replaced_site = ?", wanted.replaced_at
    if wanted.only_open:
        yield "state = 'open'", None
    if wanted.only_uncertain:
        yield "certain = 0", None
    if wanted.key is not None:
        yield "key = ?", wanted.key


def _row(record: ConflictRecord) -> tuple[object, ...]:
    """The values of `_COLUMNS`."""
    r = record
    kind, name = r.element or ("", b"")
    counts, offsets = json.dumps(r.counts), json.dumps(r.offsets)
    writes = json.dumps([[w.site, w.command.decode("latin-1"), w.offset, w.earliest_us, w.latest_us] for w in r.writes])
    lost = r.replaced
    value = lost.value if lost is not None else None
    # The key is in two indexes as well.
    size = ROW_BYTES + 3 * len(r.key) + 2 * len(name) + len(counts) + len(offsets) + len(writes) + len(value or b"")
    return (
        *(r.epoch, r.number, r.found_ms, r.settled_ms, r.undone_ms, r.state, r.database, r.key, kind, name, r.policy),
        *(r.winner, r.rule, r.certain, counts, offsets, writes),
        *((lost.site, lost.kind, lost.expires_at_ms, lost.size, lost.digest) if lost is not None else (None,) * 5),
        *(r.kept, size, value),
    )


def _record(row: Sequence[Any]) -> ConflictRecord:
    """From the columns of `_SELECT`."""
    id, epoch, number, found_ms, settled_ms, undone_ms, state, database, key, kind, name, *rest = row
    policy, winner, rule, certain, counts, offsets, writes, site, lost_kind, expires_ms, size, digest, kept, value = (
        rest
    )
    return ConflictRecord(
        id=id,
        epoch=epoch,
        number=number,
        found_ms=found_ms,
        settled_ms=settled_ms,
        undone_ms=undone_ms,
        state=state,
        database=database,
        key=key,
        element=(kind, name) if kind else None,
        policy=policy,
        winner=winner,
        rule=rule,
        certain=bool(certain),
        counts=json.loads(counts),
        offsets=_offsets(offsets),
        writes=tuple(ConflictingWrite(w[0], w[1].encode("latin-1"), *w[2:]) for w in json.loads(writes)),
        replaced=None if site is None else Replaced(site, lost_kind, value, expires_ms, size, digest),
        kept=kept,
    )


def _offsets(text: str) -> dict[str, tuple[int, int]]:
    return {site: (first, last) for site, (first, last) in json.loads(text).items()}
