"""What a site says of itself, and what it allows us: the facts that the precheck judges.

Nothing here changes a site: no key is written, no full sync is begun. Rights are found out by trying, because
ACL DRYRUN is itself a right that few accounts have.
"""

import bisect
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import attrs

from bisync.config import Site
from bisync.core.tag import beat_key, tag_key
from bisync.errors import SiteError
from bisync.runtime.control import DATABASES_PROBED, CommandRefused, Control, Refusal, Reply, Word
from bisync.runtime.probes import BEATING, COPYING, READ, SETTLING, Words, about, applied
from bisync.runtime.tls_control import Secured

T = TypeVar("T")

RATE_SAMPLE_S = 0.3  # between the two readings of the write rate
SCAN_COUNT = 500  # keys asked for at a time
SCAN_PAGES = 400  # pages looked at in a database before giving up on finding a key that counts: about 200,000 keys
PROBE_KEY = b"bisync-precheck"  # stands for any key of the user's; never written
NO_SUCH_REPLID = "0" * 40
WRITES: tuple[tuple[Word, ...], ...] = (
    ("DEL", "{key}"),
    ("RESTORE", "{key}", 0, "-", "REPLACE"),
    ("PEXPIREAT", "{key}", 1),
    ("APPEND", "{key}", "-"),
    ("INCRBY", "{key}", 1),
    ("HSET", "{key}", "-", "-"),
    ("RPUSH", "{key}", "-"),
    ("SADD", "{key}", "-"),
    ("ZADD", "{key}", 1, "-"),
)
"""What is tried at a target besides the tag's own commands: one for each kind of value, in MULTI, never executed."""


@attrs.frozen
class Questions:
    """What the precheck wants to know of one site."""

    job: str  # the job's name
    reads: bool  # will bisync read this site's stream?
    writes: bool  # will bisync write here?
    settles: bool = False  # may there be conflicts, which bisync settles here?
    tags: tuple[str, ...] = ()  # channels whose tag is kept here
    beats: bool = False  # is a heartbeat all that bisync writes here?
    passed: tuple[str, ...] = ()  # options under [commands] that are "pass"
    whole: bool = True  # are all keys in scope? Then the account must reach any key
    counts: Callable[[int, bytes], bool] | None = None  # does this (database, key) make the site "not empty"?


@attrs.define
class Survey:
    """The answers. A field is None where the site did not allow the question."""

    site: Site
    problem: SiteError | None = None  # why nothing could be asked; all else is empty then
    info: dict[str, str] | None = None  # the fields of INFO: server, memory, replication, persistence, cluster, stats
    database_count: int | None = None  # how many databases the server has
    databases: dict[int, int] = attrs.field(factory=dict)  # those that hold keys, with the number of keys
    ahead_s: tuple[float, float] | None = None  # seconds its clock is ahead of ours: at least, at most
    written_per_s: float | None = None  # bytes of its replication stream, or of what clients sent, per second
    refused: dict[str, Refusal] = attrs.field(factory=dict)  # by command: what a probe was not allowed
    unsettling: dict[str, Refusal] = attrs.field(factory=dict)  # by command of SETTLING: as `refused`
    unapplied: dict[str, Refusal] = attrs.field(factory=dict)  # by command of APPLIED or WHOLE: no right to it
    unbeaten: dict[str, Refusal] = attrs.field(factory=dict)  # by command: no right to it, so no heartbeat
    unread: dict[str, Refusal] = attrs.field(factory=dict)  # by command of READ: no right to it
    secured: Secured | None = None  # None: in the clear
    tags: dict[str, Reply] = attrs.field(factory=dict)  # by channel: the value of the tag key
    occupied: tuple[int, bytes] | None = None  # a database and a key there that counts
    looked_at_all: bool = True  # False where there were too many keys to say that none counts

    @property
    def loading(self) -> bool:
        """Is the server still reading its data from disk?"""
        return self.info is not None and self.info.get("loading") == "1"

    def number(self, field: str) -> int | None:
        """A field of INFO as a number, None where there is none."""
        value = (self.info or {}).get(field, "")
        return int(value) if value.isdecimal() else None


def survey(site: Site, questions: Questions, *, timeout_s: float = 5.0) -> Survey:
    """Ask a site everything. Never raises SiteError: what went wrong is in `problem`."""
    result = Survey(site)
    try:
        with Control(site, timeout_s=timeout_s) as control:
            control.batch([])
            result.secured = control.secured
            result.info = _allowed(lambda: _info(control))
            if result.info is None:
                control.ask("PING")  # INFO may just be denied; a server that is loading or wants a password says so
            if not result.loading:
                _ask_all(control, questions, result)
    except SiteError as e:
        return Survey(site, problem=e)
    return result


def _ask_all(control: Control, questions: Questions, result: Survey) -> None:
    result.ahead_s = _clock(control)
    result.database_count = _database_count(control)
    result.databases = _allowed(control.databases) or {}
    result.tags = {c: control.ask("GET", tag_key(questions.job, c)) for c in questions.tags}
    if questions.reads:
        result.refused |= _probe_reading(control.site)
        result.written_per_s = _written_per_s(control, result.info)
    if questions.writes:
        result.refused |= _probe_writing(control.site, questions)
        result.refused |= _probe_queued(control.site, questions, COPYING)
        result.unapplied = _denied(_probe_queued(control.site, questions, applied(questions.passed)))
    if questions.beats:
        result.unbeaten = _denied(_probe_beating(control.site, questions))
    if questions.settles:
        result.unsettling = _probe_queued(control.site, questions, SETTLING)
    result.unread = _denied(_probe_each(control, questions, READ))
    if questions.counts is not None:
        _look_for_keys(control, questions.counts, result)


def _allowed(question: Callable[[], T]) -> T | None:
    """The answer, or None where the site is well but does not allow the question."""
    try:
        return question()
    except CommandRefused:
        return None


def _info(control: Control) -> dict[str, str]:
    fields: dict[str, str] = {}
    for section in ("server", "memory", "persistence", "replication", "cluster", "stats"):
        fields |= control.info(section)
    return fields


def _clock(control: Control) -> tuple[float, float] | None:
    before = time.time()
    match control.ask("TIME"):
        case [bytes(seconds), bytes(micros)]:
            theirs = int(seconds) + int(micros) / 1e6
            return theirs - time.time(), theirs - before
    return None


def _database_count(control: Control) -> int | None:
    setting = control.config_get("databases")
    if setting is not None:
        return int(setting)

    def missing(n: int) -> bool:
        return _allowed(lambda: control.batch([], db=n)) is None

    return bisect.bisect_left(range(DATABASES_PROBED), True, key=missing)


def _written_per_s(control: Control, info: dict[str, str] | None) -> float | None:
    """How fast the site's stream grows; where it has none yet, how fast clients send (an upper bound, roughly)."""
    if info is None:
        return None
    stream = info.get("repl_backlog_active") == "1"
    section, field = ("replication", "master_repl_offset") if stream else ("stats", "total_net_input_bytes")
    if field not in info:
        return None
    begin, first = time.monotonic(), int(control.info(section)[field])
    time.sleep(RATE_SAMPLE_S)
    return max(0.0, (int(control.info(section)[field]) - first) / (time.monotonic() - begin))


def _probe_reading(site: Site) -> dict[str, Refusal]:
    """Would this account be let in as a replica? On a connection of its own, closed at the end."""
    found: dict[str, Refusal] = {}
    with Control(site) as control:
        _note(found, "REPLCONF", control.ask("REPLCONF", "capa", "psync2"))
        # `PSYNC <id> <offset> FAILOVER` is only ever an error for an unknown id (6.2 and newer; replication.c,
        # syncCommand), but comes after the check of rights. A plain PSYNC would cost the site a snapshot.
        reply = control.ask("PSYNC", NO_SUCH_REPLID, 0, "FAILOVER")
        if isinstance(reply, Refusal) and "wrong number of arguments" in reply.text:
            reply = _queued_psync(control)
        _note(found, "PSYNC", reply)
    return found


def _queued_psync(control: Control) -> Reply:
    """Before 6.2: queue a PSYNC in a transaction that is never executed. Before 6.0 there are no rights to lack."""
    if control.batch([("MULTI",), ("DISCARD",)]) != [b"OK", b"OK"]:
        return None
    return control.batch([("MULTI",), ("PSYNC", "?", -1), ("DISCARD",)])[1]


def _probe_writing(site: Site, questions: Questions) -> dict[str, Refusal]:
    """Would the site take our transactions? The commands are queued, never executed.

    MULTI goes in the same batch as what it guards, after it was seen to work: on a connection that was lost and opened
    again in between, the commands would run.
    """
    tag = tag_key(questions.job, questions.tags[0] if questions.tags else "forward")
    with Control(site) as control:
        found = _probe_session(control, tag)
        if "MULTI" in found:
            return found
        queue: Sequence[tuple[Word, ...]] = (
            *(("MULTI",), ("SELECT", 0), ("SET", tag, "-", "NX", "XX"), ("GET", tag)),
            *(_about(questions, command) for command in WRITES),
            ("DISCARD",),
        )
        for command, reply in zip(queue, control.batch(queue)):
            _note(found, str(command[0]), reply)
    return found


def _probe_session(control: Control, key: bytes) -> dict[str, Refusal]:
    """Would the site take a guarded transaction, empty as it is?"""
    found: dict[str, Refusal] = {}
    session: Sequence[tuple[Word, ...]] = (("WATCH", key), ("MULTI",), ("EXEC",))
    for command, reply in zip(session, control.batch(session)):
        _note(found, str(command[0]), reply)
    return found


def _probe_beating(site: Site, questions: Questions) -> dict[str, Refusal]:
    """Would the site take a heartbeat? As in `_probe_writing` nothing is executed."""
    with Control(site) as control:
        found = _probe_session(control, beat_key(questions.job))
        if "MULTI" not in found:
            _note(found, "DISCARD", control.batch([("MULTI",), ("DISCARD",)])[1])
    return found | _probe_queued(site, questions, BEATING)


def _probe_queued(site: Site, questions: Questions, samples: Mapping[str, Words]) -> dict[str, Refusal]:
    """Would the site take these? As in `_probe_writing` nothing is executed."""
    found: dict[str, Refusal] = {}
    with Control(site) as control:
        if control.batch([("MULTI",), ("DISCARD",)]) != [b"OK", b"OK"]:
            return found  # the account may not write at all: another check says so
        queue = [("MULTI",), *(_about(questions, command) for command in samples.values()), ("DISCARD",)]
        for name, reply in zip(samples, control.batch(queue)[1:-1], strict=True):
            _note(found, name, reply)
    return found


def _probe_each(control: Control, questions: Questions, samples: Mapping[str, Words]) -> dict[str, Refusal]:
    """Would the site answer these? They only read, so they are executed, at a key that is not there."""
    found: dict[str, Refusal] = {}
    commands = [_about(questions, command) for command in samples.values()]
    for name, reply in zip(samples, control.batch(commands), strict=True):
        _note(found, name, reply)
    return found


def _denied(refused: dict[str, Refusal]) -> dict[str, Refusal]:
    return {command: reply for command, reply in refused.items() if reply.denied}


def _about(questions: Questions, command: tuple[Word, ...]) -> tuple[Word, ...]:
    """A probe with a key in it that stands for those that the job copies."""
    key = PROBE_KEY if questions.whole else f"bisync:{questions.job}:probe".encode()
    return about(command, key, questions.job)


def _note(found: dict[str, Refusal], command: str, reply: Reply) -> None:
    """Keep a refusal that tells of rights or of the server's state, not one about the arguments of the probe."""
    if isinstance(reply, Refusal) and (reply.code != "ERR" or reply.unknown):
        found.setdefault(command, reply)


def _look_for_keys(control: Control, counts: Callable[[int, bytes], bool], result: Survey) -> None:
    """Find one key that counts, in bounded time."""
    for db in sorted(result.databases):
        cursor: Word = 0
        for _ in range(SCAN_PAGES):
            reply = control.ask("SCAN", cursor, "COUNT", SCAN_COUNT, db=db)
            if isinstance(reply, Refusal):
                result.looked_at_all = False  # another check says which right it lacks
                return
            assert isinstance(reply, list)
            cursor, keys = reply
            for key in keys:
                if counts(db, key):
                    result.occupied = (db, key)
                    return
            if cursor == b"0":
                break
        else:
            result.looked_at_all = False
