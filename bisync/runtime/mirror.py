"""Writing to the checkpoint store beside the sync: it may be slow or fail without holding up a single write.

The tags at the sites are what counts. When the store cannot be written, that is said once, the sync goes on, and what
is newest is written when the store can be used again. Conflicts alone are not in the tags: none is dropped, the core is
told when they are on the disk, and reading stops when too many, or too large ones, are not.

Where somebody moves the store's file away, a new one begins in its place, with all that is not in the old one.
"""

from collections.abc import Callable, Iterable
from typing import Any

import attrs
import structlog
import trio

from bisync.config import Job
from bisync.core.actions import Conflict
from bisync.core.arbitration import Arbiter
from bisync.errors import StoreError
from bisync.runtime.conflict_record import SETTLED, Server, Told
from bisync.runtime.conflict_table import Keep, Unit
from bisync.runtime.store import Store, StoreMoved
from bisync.runtime.unsettled import Unsettled
from bisync.runtime.wallclock import machine_ms

WAITING_EVENTS_MAX = 1000  # kept while the store cannot be written; the log has them all
WAITING_STATES_MAX = 50
WAITING_EARLIER_MAX = 10_000  # conflicts of earlier lives: all but their lost values will be found again
WAITING_BYTES_MAX = 64 << 20  # of conflicts that wait to be written; then reading waits too
AGAIN_S = 2.0  # the pause after a failed write
SOON_S = 0.02  # so soon a value that lost is written: an engine that is killed before takes it along
UNSETTLED_EVERY_S = 0.5  # a unit that cannot be settled is tried again after a second, or later
OPEN_AGAIN_S = 1.0  # between two looks at what earlier lives left open

log = structlog.get_logger()


@attrs.define
class _Batch:
    """What waits to be written, and is written in one transaction. Times in ms since 1970, by the machine's clock."""

    tags: dict[str, str] = attrs.field(factory=dict)
    states: list[tuple[str, str, int]] = attrs.field(factory=list)
    events: list[tuple[int, str, str, str]] = attrs.field(factory=list)
    report: dict[str, Any] | None = None
    conflicts: dict[tuple[int, int], Told] = attrs.field(factory=dict)  # by epoch and number, as they were found
    servers: dict[str, Server] = attrs.field(factory=dict)  # by site: what they are now, where that is news
    still_open: frozenset[Unit] | None = None  # what the life `epoch` is settling; None: not asked
    epoch: int = 0
    size: int = 0  # bytes of the conflicts
    settings: dict[str, int] = attrs.field(factory=dict)  # for a store that has none
    begun: int = 0  # the epoch in which the job began anew after a gap; 0: it never did, or that was written

    def add(self, told: Told) -> None:
        """A conflict was told; what was told of it before and is not written yet becomes one with it."""
        place = (told.epoch, told.conflict.number)
        before = self.conflicts.get(place)
        self.conflicts[place] = told if before is None else before.followed_by(told)
        self.size += told.size - (before.size if before is not None else 0)


class Mirror:
    """What waits to be written, and the store it goes to."""

    def __init__(self, job: Job, store: Store | None) -> None:
        self._job, self._store = job, store
        self._waiting = _Batch()
        self._due_s = 0.0
        self._recorded = False  # does the store know the job?
        self._tags: dict[str, str] = {}  # the newest, by channel
        self._servers: dict[str, Server] = {}  # by site
        self._writing: _Batch | None = None  # in a worker thread, at this moment
        self._epoch = 0  # of the life that tells of conflicts
        self._lost = trio.Event()  # a value that was replaced waits to be written
        self._tell_recorded: Callable[[list[int]], None] = lambda numbers: None
        self._ask_open_s: float | None = None  # when to ask again what is open; None: earlier lives left nothing
        self._unsettled, self._unsettled_due_s = Unsettled(), 0.0
        self.settings = _settings_in(store, job) if store else {}  # what may change while the engine runs, by name
        self.tell_settings: Callable[[dict[str, int]], None] = lambda settings: None  # called when they changed
        self.failing = ""  # why the store cannot be written at present

    def record_job(self) -> None:
        """Compare the job with what the store knows of it. Raises StoreError where that is another one.

        A job that has not begun is not recorded yet: its file may still be mended. Nor is a store that cannot be
        written at present a reason to stop. Both are made up for with the first checkpoint.
        """
        try:
            if self._store is not None and self._has_begun(self._store):
                self._record_in(self._store)
        except StoreError as e:
            if not e.heals:
                raise

    def _has_begun(self, store: Store) -> bool:
        return any(store.checkpoint(self._job.name, channel) for channel in ("forward", "reverse"))

    def _record_in(self, store: Store) -> None:
        if not self._recorded:
            store.record_job(self._job.name, self._job.topology, [s.name for s in self._job.sites], machine_ms())
            self._recorded = True

    def checkpoint(self, channel: str, tag: bytes) -> None:
        """The newest committed tag of a channel."""
        self._waiting.tags[channel] = self._tags[channel] = tag.decode()

    def forget_checkpoints(self) -> None:
        """Another engine has the job: what this one committed is old now."""
        self._waiting.tags.clear()
        self._tags.clear()

    def reads(self, site: str, history: str) -> None:
        """The stream of a site is read: by its tags and floors it is the site that it was before."""
        server = Server(self._job.site(site).endpoint.address, history)
        if self._servers.get(site) != server:
            self._servers[site] = server
            self._waiting.servers = dict(self._servers)

    def state(self, state: str, reason: str) -> None:
        """The job has entered a state."""
        self._waiting.states = [*self._waiting.states[-WAITING_STATES_MAX:], (state, reason, machine_ms())]

    def event(self, level: str, kind: str, text: str, *, logged: bool = True) -> None:
        """Something a person may want to know later. Also goes to the log, unless somebody else says it."""
        if logged:
            getattr(log, level)(text, kind=kind, job=self._job.name)
        self._waiting.events = [*self._waiting.events[-WAITING_EVENTS_MAX:], (machine_ms(), level, kind, text)]

    def report(self, report: dict[str, Any]) -> None:
        """How the job is doing now."""
        self._waiting.report = report

    def tell_unsettled(self, arbiter: Arbiter) -> None:
        """Events of what cannot be settled, and of what is settled after all; now and then."""
        if trio.current_time() >= self._unsettled_due_s:
            self._unsettled_due_s = trio.current_time() + UNSETTLED_EVERY_S
            for level, text in self._unsettled.look(arbiter):
                self.event(level, "unsettled", text)

    # -- conflicts
    def begin_life(self, epoch: int, recorded: Callable[[list[int]], None], begun: int = 0) -> None:
        """From here on conflicts are those of the life with this epoch. `begun`: in which the job began anew.

        `recorded` is called with the numbers of those of its conflicts that are on the disk, as they were told last.
        """
        self._epoch, self._tell_recorded = epoch, recorded
        self._ask_open_s = 0.0
        self._waiting.begun = begun
        self._keep_worthy(self._waiting)

    def conflict(self, conflict: Conflict) -> None:
        """A conflict of this life was found or settled."""
        now_ms = machine_ms()
        settled_ms = now_ms if conflict.state == SETTLED else None
        self._waiting.add(Told(self._epoch, conflict, now_ms, settled_ms))
        if conflict.replaced is not None:
            self._lost.set()

    async def pause(self, seconds: float) -> None:
        """Wait until the next `flush` is due: for so long, or less where a value that lost is nowhere but here."""
        with trio.move_on_after(seconds):
            await trio.sleep(SOON_S)
            await self._lost.wait()

    @property
    def bytes_waiting(self) -> int:
        """How many bytes of memory the conflicts take that are not on the disk yet, about."""
        return self._waiting.size + (self._writing.size if self._writing is not None else 0)

    @property
    def full(self) -> bool:
        """Must reading wait, as the conflicts that are not on the disk take too much memory?"""
        return self.bytes_waiting >= WAITING_BYTES_MAX

    @property
    def asks_what_is_open(self) -> bool:
        """May earlier lives have left conflicts open in the store? Then `still_open` is wanted, now and then."""
        return self._ask_open_s is not None and trio.current_time() >= self._ask_open_s

    def still_open(self, units: Iterable[Unit]) -> None:
        """What this life is settling, once it has read again all that earlier lives had read.

        A conflict that an earlier life left open, and whose unit is not among these, is settled: the one that was
        under way was taken up by its note, or there was nothing left to do.
        """
        self._waiting.still_open, self._waiting.epoch = frozenset(units), self._epoch
        self._ask_open_s = trio.current_time() + OPEN_AGAIN_S

    def _keep_worthy(self, batch: _Batch) -> None:
        """Of earlier lives only what this one cannot find again: the values that were replaced."""
        kept: dict[tuple[int, int], Told] = {}
        earlier: list[tuple[int, int]] = []
        for place, told in batch.conflicts.items():
            if told.epoch == self._epoch:
                kept[place] = told
            elif told.conflict.replaced is not None:
                kept[place] = told
                earlier.append(place)
        dropped = earlier[:-WAITING_EARLIER_MAX]
        for place in dropped:
            del kept[place]
        batch.conflicts, batch.size = kept, sum(told.size for told in kept.values())
        if dropped:
            text = f"of {len(dropped):,} conflicts the log will not have the value that lost: it could not be written"
            self.event("error", "store", text)

    # -- writing
    async def flush(self, *, last: bool = False) -> None:
        """Write what waits. Never raises: a store that cannot be written is an event."""
        if not last and trio.current_time() < self._due_s:
            return
        batch, self._waiting = self._waiting, _Batch()
        self._writing, self._lost = batch, trio.Event()
        try:
            left, settings = await trio.to_thread.run_sync(self._write, batch)
        except StoreError as e:
            self._take_back(batch)
            self._due_s = trio.current_time() + AGAIN_S
            if not self.failing:
                text = f"{str(e).removesuffix('.')}. The sync goes on: the tags at the sites are what counts"
                log.error(text, kind="store", job=self._job.name)
            self.failing = str(e).removesuffix(".")
            if isinstance(e, StoreMoved):
                self._begin_anew(str(e))
                if last:  # else after the pause: whoever moves the file may put another one there
                    await self.flush(last=True)
        except BaseException:  # cancelled before the thread began
            self._take_back(batch)
            raise
        else:
            if self.failing:
                log.info("the store is written again", kind="store")
            self.failing = ""
            self._written(batch, left)
            if settings != self.settings:
                self.settings = settings
                self.tell_settings(settings)
        finally:
            self._writing = None

    def _begin_anew(self, why: str) -> None:
        """The next write makes a new store, or takes the one that has the place now: it must know all that counts."""
        self.event("error", "store", why, logged=False)
        self._recorded, self._waiting.servers = False, dict(self._servers)
        self._waiting.tags, self._waiting.settings = dict(self._tags), self.settings
        self._ask_open_s = 0.0

    def _written(self, batch: _Batch, left: int | None) -> None:
        """It is on the disk. `left`: how many conflicts of earlier lives are open, where that was asked."""
        if left == 0 and batch.epoch == self._epoch:
            self._ask_open_s = None
        mine = [number for epoch, number in batch.conflicts if epoch == self._epoch]
        numbers = [number for number in mine if (self._epoch, number) not in self._waiting.conflicts]
        if batch.conflicts:
            self._tell_recorded(numbers)  # also where they were all of earlier lives: reading may have waited for them

    def _take_back(self, batch: _Batch) -> None:
        """It was not written: it waits again, before what has come since."""
        newer = self._waiting
        self._waiting = _Batch(
            {**batch.tags, **newer.tags},
            [*batch.states, *newer.states][-WAITING_STATES_MAX:],
            [*batch.events, *newer.events][-WAITING_EVENTS_MAX:],
            newer.report or batch.report,
            batch.conflicts,
            newer.servers or batch.servers,
            settings=newer.settings or batch.settings,
            begun=newer.begun or batch.begun,
        )
        self._keep_worthy(self._waiting)
        for told in newer.conflicts.values():
            self._waiting.add(told)

    def _write(self, batch: _Batch) -> tuple[int | None, dict[str, int]]:
        """In a worker thread: nothing of this object is changed here but the store."""
        if self._store is None:
            self._store = Store.open(self._job.store)
        try:
            self._store.check_in_place()
            left = self._write_to(self._store, batch)
            settings = self._store.settings(self._job.name)
            self._store.check_in_place()  # or it is not known into which file that went: then it is written once more
        except StoreMoved:
            self._store.close()  # which completes the file that was moved
            self._store = None
            raise
        self._store.conflicts.trim_when_due(self._job.name, self._keep, machine_ms())
        return left, settings

    def _write_to(self, store: Store, batch: _Batch) -> int | None:
        name, now_ms, left = self._job.name, machine_ms(), None
        with store.transaction(durable=bool(batch.conflicts)):
            if batch.tags:
                self._record_in(store)
            for channel, tag in batch.tags.items():
                store.save_checkpoint(name, channel, tag, now_ms)
            for state in batch.states:
                store.enter_state(name, *state)
            for event in batch.events:
                store.add_event(name, *event)
            if batch.servers:
                store.conflicts.save_servers(name, batch.servers)
            if batch.settings and not store.settings(name):
                store.save_settings(name, batch.settings, now_ms)
            if batch.begun:
                store.conflicts.forget_streams(name, batch.begun)
            store.conflicts.save(name, batch.conflicts.values())
            if batch.report:
                kinds = store.conflicts.totals(name)  # of records: what a life finds again is none the more
                counted = {"conflicts_total": sum(kinds.values()), "conflicts_by_kind": kinds}
                store.save_report(name, {**batch.report, **counted}, now_ms)
            if batch.still_open is not None:
                left = store.conflicts.settle_closed(name, batch.epoch, batch.still_open, now_ms)
        return left

    @property
    def _keep(self) -> Keep:
        rules = self._job.conflicts
        return Keep(rules.keep_days, rules.keep_entries, rules.keep_bytes)

    def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()


def _settings_in(store: Store, job: Job) -> dict[str, int]:
    """Those of the job; none where the store cannot be read at present: they are read again with each flush."""
    try:
        return store.settings(job.name)
    except StoreError as e:
        if e.heals:
            return {}
        raise
