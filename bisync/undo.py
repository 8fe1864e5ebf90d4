"""Undoing a conflict: the value that lost is written again, at the site where it was replaced.

It is written as a client would write it, so the sync carries it to the other site. In one transaction with a look at
what stands there now: what was written since is not touched, unless a person insists.
"""

import hashlib
import time
from collections.abc import Iterator

import attrs

from bisync.comparison import Place, compare
from bisync.config import Job, Site
from bisync.conflicts import unit_text
from bisync.core.actions import Replaced
from bisync.errors import BisyncError
from bisync.runtime.conflict_record import OPEN, ConflictRecord
from bisync.runtime.control import Control, Refusal, Word, refused
from bisync.runtime.store import Store
from bisync.status import time_text

TRIES = 5  # looks at a key that is written all the time, each with an attempt
TIMEOUT_S = 20.0  # for one reply: a large value takes its time
SOON_MS = 1_000  # a time to live that ends so soon counts as over: the clocks of two machines differ

Command = tuple[Word, ...]

_READS = {"hash": "HGET", "set": "SISMEMBER", "zset": "ZSCORE"}
_ADDS = {"hash": "HSET", "set": "SADD", "zset": "ZADD"}
_REMOVES = {"hash": "HDEL", "set": "SREM", "zset": "ZREM"}


@attrs.frozen
class Undone:
    """What was done."""

    record: ConflictRecord
    site: str  # where the value was written
    other: str  # where the sync carries it
    written: bool  # False: it stood there already
    without_expiry: bool  # its time to live is over, so it was put back without one


class _Changed(Exception):
    """The key was written between the look and the transaction."""


def undo(job: Job, store: Store, id: int, *, force: bool = False) -> Undone:
    """Put back the value that lost in the conflict `id`, and note that in the store.

    Without `force` only if the unit still holds what the conflict left there, the conflict was not undone before, and
    the value's time to live is not over; with `force` such a value is put back without one. Raises BisyncError where
    it is not or cannot be done, and then nothing was written; SiteError where a site cannot be used (after a lost
    connection nobody knows: undo again, it is done once only); StoreError where the store cannot.
    """
    record = store.conflicts.get(job.name, id)
    if record is None:
        hint = f"`bisync conflicts {job.path.name}` lists those it has; old ones leave the log"
        raise BisyncError(f"the log of job {job.name!r} has no conflict {id}", hint=hint)
    now_ms = int(time.time() * 1000)
    lost = _lost(job, record, now_ms)
    over = lost.kind == "dump" and _is_over(lost.expires_at_ms, now_ms)
    if not force:
        _check_record(record, lost, over)
    other = next(s for s in job.sites if s.name != lost.site)
    with Control(job.site(lost.site), timeout_s=TIMEOUT_S) as control, Control(other, timeout_s=TIMEOUT_S) as across:
        unit = _Unit(job, record, lost, control, across)
        for _ in range(TRIES):
            done = unit.look(force=force)
            try:
                with store.transaction():
                    store.conflicts.mark_undone(job.name, id, now_ms)
                    text = f"conflict {id} was undone: {unit_text(record)}, at {lost.site}"
                    store.add_event(job.name, now_ms, "info", "undone", text)
                    if not done:
                        unit.write(without_expiry=over)
            except _Changed:
                continue
            return Undone(record, lost.site, other.name, not done, over and not done)
    raise _refused(record, f"{unit_text(record)} is written all the time at {lost.site}", _again(lost))


def _lost(job: Job, record: ConflictRecord, now_ms: int) -> Replaced:
    """What to put back. Raises BisyncError where there is nothing that can be, also not by force."""
    lost = record.replaced
    if record.state == OPEN:
        raise _refused(record, "it is not settled yet", f"wait: `bisync wait {job.path.name} --drained`")
    if lost is None:
        hint = ""
        if record.element is not None:
            hint = "where its key was settled as a whole, the conflict of the key has the value: see --key"
        raise _refused(record, "the log has no value that was replaced", hint)
    if lost.site not in [site.name for site in job.sites]:
        raise _refused(record, f"the job has no site {lost.site!r} any more", "")
    if lost.kind != "absent" and lost.value is None:
        digest = f", SHA-256 {lost.digest}" if lost.digest else ""
        hint = "put it back from a backup; `value_bytes` under [conflicts] in the job file says up to which size"
        raise _refused(record, f"the log does not hold the value: it had {lost.size:,} bytes{digest}", hint)
    if lost.kind == "ttl" and _is_over(lost.expires_at_ms, now_ms):
        why = f"the time to live that lost ended at {time_text(lost.expires_at_ms or 0)}: the key would go at once"
        raise _refused(record, why, "delete the key yourself if it should be gone")
    return lost


def _is_over(expires_at_ms: int | None, now_ms: int) -> bool:
    return expires_at_ms is not None and expires_at_ms <= now_ms + SOON_MS


def _check_record(record: ConflictRecord, lost: Replaced, over: bool) -> None:
    """Raises BisyncError for what only force overrides and what the record itself shows."""
    if record.undone_ms is not None:
        why = f"it was undone before, at {time_text(record.undone_ms)}"
        raise _refused(record, why, "say --force to put the value back once more")
    if over and lost.expires_at_ms is not None:
        why = f"the value's time to live ended at {time_text(lost.expires_at_ms)}"
        raise _refused(record, why, "say --force to put it back without a time to live")


def _refused(record: ConflictRecord, why: str, hint: str) -> BisyncError:
    return BisyncError(f"conflict {record.id} is not undone, nothing was written", why=why, hint=hint)


def _again(lost: Replaced) -> str:
    what = "remove it" if lost.kind == "absent" else "put the value that lost in its place"
    return f"look at what it holds; say --force to {what} anyhow"


@attrs.define
class _Unit:
    """The unit of a conflict, at the site where a value was replaced and at the other one."""

    job: Job
    record: ConflictRecord
    lost: Replaced
    control: Control
    across: Control

    def look(self, *, force: bool) -> bool:
        """See what stands there now. Is it what would be put back?

        Without force the key is watched from here on; raises BisyncError where it has changed since the conflict.
        """
        db = self._database(self.control.site)
        if not force and not self.record.about_functions:
            self.control.call_all([("UNWATCH",), ("WATCH", self.record.key)], db=db)
        if self._is_too_big(self.control, db):
            if not force:
                why = f"what {unit_text(self.record)} holds at {self.lost.site} is too big to be compared"
                raise _refused(self.record, why, _again(self.lost))
            return False
        value, expires_at_ms = self._read(self.control, db)
        same_expiry = self.record.element is not None or value is None or expires_at_ms == self.lost.expires_at_ms
        if not isinstance(value, Refusal) and _digest(value) == self.lost.digest and same_expiry:
            return True
        if not force and not self._is_unchanged(value):
            why = f"{unit_text(self.record)} has changed at {self.lost.site} since then"
            raise _refused(self.record, why, _again(self.lost))
        return False

    def _is_unchanged(self, value: bytes | None | Refusal) -> bool:
        """Does the site still hold what the conflict left there?

        One value has many DUMPs: the order in a large hash depends on the server, and a restored value may be encoded
        in another way. The one that was taken then came from the other site; if that site still has the same one, and
        both sites hold equal values, nothing has changed.
        """
        if isinstance(value, Refusal):  # the key is of another type now
            return False
        if _digest(value) == self.record.kept:
            return True
        if value is None or not self.record.kept or self.record.element is not None or self.record.about_functions:
            return False
        key, db = self.record.key, self._database(self.across.site)
        if self._is_too_big(self.across, db):
            return False
        theirs, _ = self._read(self.across, db)
        if isinstance(theirs, Refusal) or _digest(theirs) != self.record.kept:
            return False
        places = Place(self.control, self._database(self.control.site)), Place(self.across, db)
        return all(d.kind == "expiry" for d in compare(*places, [key], tolerance_ms=0))

    def _reads(self) -> list[Command]:
        key, element = self.record.key, self.record.element
        if self.record.about_functions:
            return [("FUNCTION", "DUMP")]
        if element is None:
            return [("DUMP", key), ("PEXPIRETIME", key)]
        return [("PEXPIRETIME", key)] if element[0] == "ttl" else [(_READS[element[0]], key, element[1])]

    def _read(self, control: Control, db: int) -> tuple[bytes | None | Refusal, int | None]:
        """The unit's value, in the form of `Replaced.value`, and a whole key's expiry (Unix time in ms).

        A Refusal where the key is of another type. Raises BisyncError where a key is gone whose time to live is asked.
        """
        value, *more = control.batch(self._reads(), db=db)
        if isinstance(value, Refusal) and value.code != "WRONGTYPE":
            raise refused(control.site, self._reads()[0], value)
        if self.record.element is not None and isinstance(value, int):
            if self.record.element[0] == "set":
                return b"1" if value else None, None
            if value == -2:
                raise _refused(self.record, f"the key is gone at {control.site.name}", "")
            return None if value < 0 else b"%d" % value, None
        assert value is None or isinstance(value, bytes | Refusal)
        return value, more[0] if more and isinstance(more[0], int) and more[0] >= 0 else None

    def _is_too_big(self, control: Control, db: int) -> bool:
        """A key whose DUMP would hold up its server."""
        if self.record.element is not None or self.record.about_functions:
            return False
        used = control.ask("MEMORY", "USAGE", self.record.key, db=db)
        return isinstance(used, int) and used > self.job.conflicts.rebuild_bytes

    def write(self, *, without_expiry: bool) -> None:
        """Put the value back, in a transaction. Raises _Changed where the watched key has changed."""
        if self.control.execute([self._command(without_expiry)], db=self._database(self.control.site)) is None:
            raise _Changed

    def _command(self, without_expiry: bool) -> Command:
        key, element, value = self.record.key, self.record.element, self.lost.value
        if self.record.about_functions and value is not None:
            return ("FUNCTION", "RESTORE", value, "FLUSH")
        if element is None:
            if value is None:
                return ("UNLINK", key)
            expires_at_ms = 0 if without_expiry else self.lost.expires_at_ms or 0
            return ("RESTORE", key, expires_at_ms, value, "REPLACE", "ABSTTL")
        kind, name = element
        if kind == "ttl":
            return ("PERSIST", key) if value is None else ("PEXPIREAT", key, value)
        if value is None:
            return (_REMOVES[kind], key, name)
        words: dict[str, Command] = {"hash": (name, value), "set": (name,), "zset": (value, name)}
        return (_ADDS[kind], key, *words[kind])

    def _database(self, site: Site) -> int:
        """How the site numbers the database of the record; functions belong to none."""
        if self.record.about_functions:
            return 0
        if site.name == self.job.source.name:
            return self.record.database
        mapped = self.job.objects.target_database(self.record.database)
        return self.record.database if mapped is None else mapped


def _digest(value: bytes | None) -> str:
    return "" if value is None else hashlib.sha256(value).hexdigest()


def lines_about(undone: Undone, *, running: bool) -> Iterator[str]:
    """What was done, in sentences. `running`: does an engine work on the job?"""
    record, lost = undone.record, undone.record.replaced
    assert lost is not None
    unit = unit_text(record)
    if not undone.written:
        yield f"Conflict {record.id}: {undone.site} holds already what lost there. Nothing was written."
        return
    what = "is removed again" if lost.kind == "absent" else "holds again what lost there"
    yield f"Conflict {record.id} is undone: at {undone.site}, {unit} {what}."
    if undone.without_expiry and lost.expires_at_ms is not None:
        yield f"Its time to live ended at {time_text(lost.expires_at_ms)}: it has none now."
    carries = "The sync carries this" if running else "No engine is running: the next `bisync run` carries this"
    yield f"{carries} to {undone.other}."
