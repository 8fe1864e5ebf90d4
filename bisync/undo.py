"""Undoing a conflict: the value that lost is written again, at the site where it was replaced.

It is written as a client would write it, so the sync carries it to the other site. In one transaction with a look at
what stands there now: what was written since is not touched, unless a person insists. And only where the job's sites
are the servers that they were when the conflict was settled.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence

import attrs

from bisync.comparison import Place, compare
from bisync.config import Job, Site
from bisync.conflicts import unit_text
from bisync.core.abilities import Abilities
from bisync.core.actions import Replaced
from bisync.core.restore import NotNow, digest, expiry, expiry_words, key_words, present, put_words, read_words
from bisync.core.tag import tag_key
from bisync.errors import BisyncError
from bisync.runtime.conflict_record import OPEN, ConflictRecord, Servers
from bisync.runtime.control import CommandRefused, Control, Refusal, Word, place, refused
from bisync.runtime.store import Store
from bisync.status import time_text

TRIES = 5  # looks at a key that is written all the time, each with an attempt
TIMEOUT_S = 20.0  # for one reply: a large value takes its time
SOON_MS = 1_000  # a time to live that ends so soon counts as over: the clocks of two machines differ
EXPIRY_TRIES = 100  # reads of a time to live from a server before 7.0: a read must not fall between two ms

Command = tuple[Word, ...]


@attrs.frozen
class Undone:
    """What was done."""

    record: ConflictRecord
    site: str  # where the value was written
    other: str  # where the sync carries it
    written: bool  # False: it stood there already
    without_expiry: bool  # its time to live is over, or the server knows none for fields: it was put back without one


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
    over = lost.kind in ("dump", "value") and _is_over(lost.expires_at_ms, now_ms)
    if not force:
        _check_record(record, lost, over)
    other = next(s for s in job.sites if s.name != lost.site)
    with Control(job.site(lost.site), timeout_s=TIMEOUT_S) as control, Control(other, timeout_s=TIMEOUT_S) as across:
        _check_servers(job, record, store.conflicts.servers(job.name, id), control, across, force=force)
        unit = _Unit(job, record, lost, control, across)
        for _ in range(TRIES):
            done = unit.look(force=force)
            try:
                with store.transaction():
                    store.conflicts.mark_undone(job.name, id, now_ms)
                    text = f"conflict {id} was undone: {unit_text(record)}, at {lost.site}"
                    store.add_event(job.name, now_ms, "info", "undone", text)
                    whole = done or unit.write(without_expiry=over)
            except _Changed:
                continue
            return Undone(record, lost.site, other.name, not done, not whole)
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


def _check_servers(
    job: Job, record: ConflictRecord, known: Servers, control: Control, across: Control, *, force: bool
) -> None:
    """Raises BisyncError where a site is another server than when the conflict was settled.

    The same address will do, if the server there has the same history or at least a tag of the job; and the same
    history at another address. `force` helps only where the log does not know what the sites were.
    """
    for c in (control, across):
        name, held = c.site.name, known.get(c.site.name)
        if held is None:
            if not force:
                why = f"the log does not know which server {name} was then"
                hint = "`bisync run` notes it; or see for yourself that it is the same server, and say --force"
                raise _refused(record, why, hint)
            continue
        moved = place(c.site) != held.address
        if c is across and not moved:
            continue  # nothing is written there, and it may be away
        histories = _histories(c)
        if held.history in histories or not moved and (not histories or _holds_tag(job, c)):
            continue
        what = f"{name} was {held.address} when it was settled, and the job file names {place(c.site)}, another server"
        anew = f"{place(c.site)} ({name}) has begun a new history since then, and holds no tag of this job"
        hint = "name the server in the job file that it was; after a move let `bisync run` take up the job there"
        raise _refused(record, what if moved else anew, hint)


def _histories(control: Control) -> list[str]:
    """The replication ids of a server, the one before its last failover too; empty where the account may not ask."""
    try:
        fields = control.info("replication")
        if "master_replid" not in fields:  # before Redis 4.0 a run of the server has one history
            return [control.info("server")["run_id"]]
    except CommandRefused:
        return []
    return [fields[name] for name in ("master_replid", "master_replid2") if name in fields]


def _holds_tag(job: Job, control: Control) -> bool:
    reply = control.ask("EXISTS", *(tag_key(job.name, channel) for channel in ("forward", "reverse")))
    return isinstance(reply, int) and reply > 0


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
    _able: dict[str, Abilities] = attrs.field(init=False, factory=dict)  # by site

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
        mortal = self.record.element is None or (self._has_fields and self._knows_field_expiry(self.control, db))
        same_expiry = not mortal or value is None or expires_at_ms == self.lost.expires_at_ms
        if not isinstance(value, Refusal) and digest(value) == self.lost.digest and same_expiry:
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
        if digest(value) == self.record.kept:
            return True
        if value is None or not self.record.kept or self.record.element is not None or self.record.about_functions:
            return False
        key, db = self.record.key, self._database(self.across.site)
        if self._is_too_big(self.across, db):
            return False
        theirs, _ = self._read(self.across, db)
        if isinstance(theirs, Refusal) or digest(theirs) != self.record.kept:
            return False
        places = Place(self.control, self._database(self.control.site)), Place(self.across, db)
        return all(d.kind == "expiry" for d in compare(*places, [key], tolerance_ms=0))

    def _read(self, control: Control, db: int) -> tuple[bytes | None | Refusal, int | None]:
        """The unit's value, in the form of `Replaced.value`, and when a whole key or a field expires (Unix time in ms).

        A Refusal where the key is of another type. Raises BisyncError where a key is gone whose time to live is asked.
        """
        key, element = self.record.key, self.record.element
        if element is not None and element[0] == "ttl":
            if not control.call("EXISTS", key, db=db):
                raise _refused(self.record, f"the key is gone at {control.site.name}", "")
            expires_at_ms = self._expiry(control, db)
            return None if expires_at_ms is None else b"%d" % expires_at_ms, None
        words: Command = ("FUNCTION", "DUMP") if self.record.about_functions else ("DUMP", key)
        if element is not None:
            words = read_words(key, element)
        value = control.ask(*words, db=db)
        if isinstance(value, Refusal):
            if value.code != "WRONGTYPE":
                raise refused(control.site, words, value)
            return value, None
        found = present(value)
        if found is None or self.record.about_functions:
            return found, None
        return found, self._field_expiry(control, db) if element is not None else self._expiry(control, db)

    def _able_of(self, control: Control) -> Abilities:
        return self._able.setdefault(control.site.name, Abilities())

    def _expiry(self, control: Control, db: int) -> int | None:
        """When the key expires; None: never. Servers before 7.0 tell only how much of the time is left."""
        able = self._able_of(control)
        for _ in range(EXPIRY_TRIES):
            words = expiry_words(self.record.key, able)
            replies = control.batch(words, db=db)
            refusal = next(((w, r) for w, r in zip(words, replies) if isinstance(r, Refusal)), None)
            if refusal is None:
                with contextlib.suppress(NotNow):
                    return expiry(self.record.key, able).read(replies)
            elif able.has(b"PEXPIRETIME") and (refusal[1].unknown or refusal[1].denied):
                able.lacks.add(b"PEXPIRETIME")
            else:
                raise refused(control.site, *refusal)
        raise _refused(self.record, f"the time to live at {control.site.name} could not be read to the ms", "try again")

    @property
    def _has_fields(self) -> bool:
        return self.record.element is not None and self.record.element[0] == "hash"

    def _field_expiry(self, control: Control, db: int) -> int | None:
        """When the field expires; None: never, or the server does not know such a thing."""
        if not self._has_fields or not self._knows_field_expiry(control, db):
            return None
        assert self.record.element is not None
        [at_ms] = control.call("HPEXPIRETIME", self.record.key, "FIELDS", 1, self.record.element[1], db=db)
        return at_ms if at_ms > 0 else None

    def _knows_field_expiry(self, control: Control, db: int) -> bool:
        """Have the server's fields times to live (Redis 7.4), and may the account ask for them?"""
        reply = control.ask("HPEXPIRETIME", self.record.key, "FIELDS", 1, "", db=db)
        return not (isinstance(reply, Refusal) and (reply.unknown or reply.denied))

    def _is_too_big(self, control: Control, db: int) -> bool:
        """A key whose DUMP would hold up its server."""
        if self.record.element is not None or self.record.about_functions:
            return False
        used = control.ask("MEMORY", "USAGE", self.record.key, db=db)
        return isinstance(used, int) and used > self.job.conflicts.rebuild_bytes

    def write(self, *, without_expiry: bool) -> bool:
        """Put the value back, in a transaction. Raises _Changed where the watched key has changed.

        False: it is put back without the time to live that it had.
        """
        db = self._database(self.control.site)
        at_ms = None if without_expiry else self.lost.expires_at_ms
        if at_ms is not None and self._has_fields and not self._knows_field_expiry(self.control, db):
            at_ms = None
        able = self._able_of(self.control)
        try:
            done = self.control.execute(self._commands(at_ms, able), db=db)
        except CommandRefused as e:
            # Nothing was done: an older server is asked in another way, and the watch has to begin anew.
            lessons = able.lessons
            able.learn(f"{e.refusal.code} {e.refusal.text}")
            if self.record.element is None and able.lessons > lessons:
                raise _Changed from None
            raise
        if done is None:
            raise _Changed
        return self.lost.kind == "ttl" or at_ms == self.lost.expires_at_ms

    def _commands(self, at_ms: int | None, able: Abilities) -> Sequence[Command]:
        """What puts the value back, with this time to live (of a whole key or a field)."""
        key, element, value = self.record.key, self.record.element, self.lost.value
        if self.record.about_functions and value is not None:
            return [("FUNCTION", "RESTORE", value, "FLUSH")]
        if element is not None:
            mortal: list[Command] = [("HPEXPIREAT", key, at_ms or 0, "FIELDS", 1, element[1])]
            return [put_words(key, element, value), *(mortal if at_ms is not None and self._has_fields else ())]
        return key_words(key, value, at_ms, able)

    def _database(self, site: Site) -> int:
        """How the site numbers the database of the record; functions belong to none."""
        if self.record.about_functions:
            return 0
        if site.name == self.job.source.name:
            return self.record.database
        mapped = self.job.objects.target_database(self.record.database)
        return self.record.database if mapped is None else mapped


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
        at = time_text(lost.expires_at_ms)
        over = _is_over(lost.expires_at_ms, int(time.time() * 1000))
        why = f"ended at {at}" if over else f"until {at} could not be put back: {undone.site} takes none for a field"
        yield f"Its time to live {why}: it has none now."
    carries = "The sync carries this" if running else "No engine is running: the next `bisync run` carries this"
    yield f"{carries} to {undone.other}."
