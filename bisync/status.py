"""What a job is doing: the report that its engine leaves in the store, and the document made of it for people.

The engine saves a report a few times a second. A report is believed while its engine is alive: after that it only says
how things were, and a job that no engine works on is suspended whatever its last report says.
"""

import contextlib
import datetime
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol

import attrs
import cattrs

from bisync.core.commands.places import FUNCTIONS
from bisync.core.states import NOT_STARTED, RUNNING, SUSPENDED
from bisync.errors import StoreError
from bisync.runtime.store import StateChange, Store

REPORT_AGE_MS_MAX = 10_000  # an older report is a dead (or frozen) engine's: it saves some every second
EVENTS_SHOWN = 10  # the newest events in the status document
NAMED = 5  # open arbitrations that are named where something waits for them

KINDS = {
    "key": "whole keys",
    "hash": "fields of hashes",
    "set": "members of sets",
    "zset": "members of sorted sets",
    "ttl": "times to live",
    "functions": "functions",
}
"""What a conflict can be about, with the words for people."""

_ELEMENTS = {"hash": "field {name} of ", "set": "member {name} of ", "zset": "member {name} of "}
_ELEMENTS["ttl"] = "time to live of "


class JobLike(Protocol):
    """What this module needs of a job."""

    @property
    def name(self) -> str:
        """The job's name."""

    @property
    def topology(self) -> str:
        """Its topology, "one-way" or "bidirectional"."""

    @property
    def store(self) -> pathlib.Path:
        """The path of its store file."""


@attrs.frozen
class LimitsReport:
    """How fast a channel may send at present, and how fast it does."""

    commands_per_s: int = 0  # its cap; 0: none
    bytes_per_s: int = 0  # its cap; 0: none
    sent_commands_per_s: float = 0.0  # lately, counted as the caps count
    sent_bytes_per_s: float = 0.0
    share: float = 1.0  # of its usual pace that the copy takes; less than 1: it yields to the target's clients


@attrs.frozen
class ChannelReport:
    """How one direction of a job is doing."""

    state: str = NOT_STARTED  # one of bisync.core.states.STATES
    lag_ms: float | None = None  # age of the newest write of the source that is applied; None: not known
    lag_bytes: int | None = None  # bytes of the source's stream that are not yet applied; None: not known
    ops_per_s: float = 0.0  # commands applied per second, lately
    bytes_per_s: float = 0.0  # bytes of the source's stream applied per second, lately
    applied_ops: int = 0  # commands applied since this engine began
    keys_done: int = 0  # keys copied by the full copy
    keys_total: int | None = None  # keys that it has to copy; None: not known yet
    bytes_done: int = 0  # bytes of the snapshot that it has read and applied
    pending: int = 0  # client writes whose echo has not been seen yet
    limits: LimitsReport = attrs.field(factory=LimitsReport)
    target_keys_checked: int = 0  # keys of the target that the copy has looked at: are they in scope, in the snapshot?
    target_keys_total: int | None = None  # how many of them there are about; None: that does not go on


@attrs.frozen
class Drained:
    """Up to which place of a site's stream everything is applied at the other site."""

    replid: str  # 40 hex digits: the name of the history
    offset: int  # bytes of that history
    told: tuple[int, int, int] | None = None  # the clock of the newest tag that was committed there; None: none was


@attrs.frozen
class OpenUnit:
    """A key, or an element of one, that is being settled. Bytes as readable text, cut where they are long."""

    database: int  # as the job's first site numbers it
    key: str
    element: tuple[str, str] | None  # (type, name); None: the whole key
    why: str  # why it could not be settled yet; empty: it is simply under way
    since_ms: int  # ms since 1970: when the engine first reported it

    @property
    def name(self) -> str:
        """For people."""
        return unit_name(self.database, self.key, self.element)

    def to_json(self) -> dict[str, Any]:
        """As the status document has it."""
        element = {"type": self.element[0], "name": self.element[1]} if self.element else None
        place = {"database": self.database, "key": self.key, "element": element}
        return {**place, "why": self.why, "since": time_text(self.since_ms)}


def unit_name(database: int, key: str, element: tuple[str, str] | None) -> str:
    """What people call a key, or an element (type, name) of one; names as readable text."""
    kind, name = element or ("", "")
    if "functions" == kind or (database, key) == (FUNCTIONS[0], FUNCTIONS[1].decode()):
        return KINDS["functions"]
    words = _ELEMENTS.get(kind, "{kind} {name} of " if kind else "").format(kind=kind, name=_quoted(name))
    return f"{words}{_quoted(key)} in database {database}"


def _quoted(text: str) -> str:
    return f"'{text}'" if text else '""'


@attrs.frozen
class Report:
    """All that an engine says about itself. It is saved as JSON; later versions may add fields, each with a default."""

    state: str  # one of bisync.core.states.STATES
    reason: str  # why it is in that state; may be empty
    epoch: int  # of the engine, as in the tags
    pid: int  # process id of the engine
    since_ms: int  # ms since 1970: when this engine began
    channels: dict[str, ChannelReport] = attrs.Factory(dict)  # by "forward" and "reverse"
    conflicts_total: int = 0  # records of the log since the job began, those that have left it as well
    conflicts_open: int = 0  # arbitrations under way, those that no conflict began as well
    drained: dict[str, Drained] = attrs.Factory(dict)  # by the name of the source site
    quarantined: int = 0  # commands set aside because their target refused them
    conflicts_by_kind: dict[str, int] = attrs.Factory(dict)  # the same, by KINDS
    unsettled: int = 0  # open arbitrations whose last round failed
    open_units: tuple[OpenUnit, ...] = ()  # some of the open ones: those that failed first
    unrecorded: int = 0  # conflicts that are not in the store's log yet
    store_failing: str = ""  # why the store cannot be written at present; empty: it can

    def to_dict(self) -> dict[str, Any]:
        """A dict for JSON, as `Store.save_report` takes it."""
        return attrs.asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Report":
        """The reverse of `to_dict`. Ignores fields that it does not know. Raises StoreError where one is missing."""
        try:
            return _converter.structure(dict(value), cls)
        except (cattrs.BaseValidationError, ValueError, TypeError) as e:
            why = "; ".join(cattrs.transform_error(e))
            raise StoreError("the engine's report cannot be read", why=why, hint="start the engine again") from e


_converter = cattrs.Converter(forbid_extra_keys=False)


@attrs.frozen
class _Seen:
    """What the store knows of a job."""

    report: Report | None = None
    at_ms: int = 0  # when the report was saved
    state: StateChange | None = None
    events: tuple[dict[str, str], ...] = ()


def read_report(job: JobLike, now_ms: int) -> Report | None:
    """The report of the engine that works on the job at this moment (`now_ms`: ms since 1970); None: no engine does.

    Raises StoreError where the store cannot be used. A store that does not exist yet is not an error.
    """
    seen = _look(job)
    return seen.report if seen.report is not None and _alive(seen.report.pid, seen.at_ms, now_ms) else None


def read_status(job: JobLike, now_ms: int) -> dict[str, Any]:
    """The document of `bisync status --json`, at the time `now_ms` (ms since 1970).

    Without a store or a report the job is not started. Raises StoreError where the store cannot be used.
    """
    seen = _look(job)
    report = seen.report
    alive = report is not None and _alive(report.pid, seen.at_ms, now_ms)
    state, reason = _state(seen, alive)
    names = ("forward",) if job.topology == "one-way" else ("forward", "reverse")
    channels = report.channels if report else {}
    return {
        "job": job.name,
        "state": state,
        "reason": reason,
        "topology": job.topology,
        "channels": {n: _channel(channels.get(n, ChannelReport()), alive) for n in names},
        "conflicts": _conflicts(report),
        "engine": {
            "epoch": report.epoch if report else None,
            "pid": report.pid if report and alive else None,
            "since": time_text(report.since_ms) if report else None,
        },
        "events": list(seen.events),
    }


def missing_for_drain(report: Report | None, targets: Mapping[str, tuple[str, int]]) -> list[str]:
    """Say what is still missing until all that was written before is applied; empty: drained.

    `targets`: the name of each source site (both, or the forward one of a one-way job) -> the replication id and the
    offset in bytes at which its stream stood. `report` as `read_report` gave it.
    """
    if report is None:
        return ["no engine is running"]
    missing = [_missing_of_site(site, report.drained.get(site), *target) for site, target in targets.items()]
    if report.conflicts_open:
        missing.append(_open_arbitrations(report))
    return [m for m in missing if m]


def time_text(at_ms: int) -> str:
    """A time (ms since 1970) as ISO 8601 in UTC, to the ms; for documents and for texts."""
    at = datetime.datetime.fromtimestamp(at_ms // 1000, datetime.timezone.utc)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03d}Z"


def _open_arbitrations(report: Report) -> str:
    """How many there are, and some of their units by name: first those that could not be settled, with the reason."""
    count, units = report.conflicts_open, report.open_units[:NAMED]
    text = f"{count:,} arbitration{'s are' if count > 1 else ' is'} open"
    if not units:
        return text
    names = ", ".join(f"{u.name} ({u.why})" if u.why else u.name for u in units)
    more = f" and {count - len(units):,} more" if count > len(units) else ""
    return f"{text}: {names}{more}"


def _missing_of_site(site: str, drained: Drained | None, replid: str, offset: int) -> str:
    """What is missing of one site's stream; empty: nothing."""
    if drained is None:
        return f"{site}: the engine has not said yet how far its writes are applied at the other site"
    if drained.replid != replid:
        return (
            f"{site}: the engine follows history {drained.replid[:8]}.. of it, and what is asked for is {replid[:8]}.."
        )
    if drained.offset < offset:
        far = f"applied up to offset {drained.offset} of {offset}"
        return f"{site}: {offset - drained.offset} bytes of its writes are not applied at the other site yet ({far})"
    return ""


def _look(job: JobLike) -> _Seen:
    """Read what the store has; nothing where there is no store yet or its maker has only just begun."""
    with contextlib.suppress(PermissionError):  # Store.open says it better
        if not job.store.exists() or (job.store.is_file() and not job.store.stat().st_size):
            return _Seen()
    with Store.open(job.store, create=False) as store:
        saved, state = store.report(job.name), store.state(job.name)
        events = tuple(
            {"time": time_text(e.at_ms), "level": e.level, "kind": e.kind, "text": e.text}
            for e in store.events(job.name, EVENTS_SHOWN)
        )
    if saved is None:
        return _Seen(None, 0, state, events)
    return _Seen(Report.from_dict(saved[0]), saved[1], state, events)


def _alive(pid: int, at_ms: int, now_ms: int) -> bool:
    """Is the engine that saved its report at `at_ms` still at work? A frozen one is not."""
    return now_ms - at_ms <= REPORT_AGE_MS_MAX and _exists(pid)


def _exists(pid: int) -> bool:
    """Is there a process of this id?"""
    if pid <= 0:  # kill() takes these for groups of processes
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:  # it exists and is another user's
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _state(seen: _Seen, alive: bool) -> tuple[str, str]:
    """(state, reason) of the job: the newer one of the report's and the last that was noted in the history."""
    if seen.report is None:
        # A job that failed before its engine could report, or whose precheck alone was run.
        if seen.state is None or seen.state.state in RUNNING:
            return NOT_STARTED, ""
        return seen.state.state, seen.state.reason
    state, reason = seen.report.state, seen.report.reason
    if seen.state is not None and seen.state.at_ms > seen.at_ms:
        state, reason = seen.state.state, seen.state.reason
    if state in RUNNING and not alive:
        last = time_text(seen.at_ms)
        if _exists(seen.report.pid):
            why = "it hangs or cannot write the store: see its log"
            return SUSPENDED, f"the engine (process {seen.report.pid}) has said nothing since {last}; {why}"
        return SUSPENDED, f"no engine is running (last seen {last})"
    return state, reason


def _conflicts(report: Report | None) -> dict[str, Any]:
    """What the document says of conflicts. Unlike a lag, it stays true when the engine is gone: open ones stay open."""
    units = report.open_units if report else ()
    return {
        "total": report.conflicts_total if report else 0,
        "open": report.conflicts_open if report else 0,
        "by_kind": {**dict.fromkeys(KINDS, 0), **(report.conflicts_by_kind if report else {})},
        "unsettled_total": report.unsettled if report else 0,
        "unsettled": [u.to_json() for u in units if u.why],
        "unrecorded": report.unrecorded if report else 0,
        "store_failing": report.store_failing if report else "",
    }


_COPY_FIGURES = ("keys_done", "keys_total", "bytes_done", "target_keys_checked", "target_keys_total")
_FIGURES = ("state", "lag_ms", "lag_bytes", "ops_per_s", "bytes_per_s", "applied_ops", "pending")


def _channel(channel: ChannelReport, alive: bool) -> dict[str, Any]:
    """One channel of the document. Of a dead engine's only the counts are still true."""
    if not alive:
        state = SUSPENDED if channel.state in RUNNING else channel.state
        channel = attrs.evolve(channel, state=state, lag_ms=None, lag_bytes=None, ops_per_s=0.0, bytes_per_s=0.0)
        still = attrs.evolve(channel.limits, sent_commands_per_s=0.0, sent_bytes_per_s=0.0, share=1.0)
        channel = attrs.evolve(channel, limits=still)
    return {
        **{f: getattr(channel, f) for f in _FIGURES},
        "full_copy": {f: getattr(channel, f) for f in _COPY_FIGURES},
        "limits": attrs.asdict(channel.limits),
    }
