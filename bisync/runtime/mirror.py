"""Writing to the checkpoint store beside the sync: it may be slow or fail without holding up a single write.

The tags at the sites are what counts. When the store cannot be written, that is said once, the sync goes on, and what
is newest is written when the store can be used again.
"""

from typing import Any

import attrs
import structlog
import trio

from bisync.config import Job
from bisync.errors import StoreError
from bisync.runtime.store import Store
from bisync.runtime.wallclock import machine_ms

WAITING_EVENTS_MAX = 1000  # kept while the store cannot be written; the log has them all
WAITING_STATES_MAX = 50
AGAIN_S = 2.0  # the pause after a failed write

log = structlog.get_logger()


@attrs.define
class _Batch:
    """What waits to be written, and is written in one transaction. Times in ms since 1970, by the machine's clock."""

    tags: dict[str, str] = attrs.field(factory=dict)
    states: list[tuple[str, str, int]] = attrs.field(factory=list)
    events: list[tuple[int, str, str, str]] = attrs.field(factory=list)
    report: dict[str, Any] | None = None


class Mirror:
    """What waits to be written, and the store it goes to."""

    def __init__(self, job: Job, store: Store | None) -> None:
        self._job, self._store = job, store
        self._waiting = _Batch()
        self._due_s = 0.0
        self._recorded = False  # does the store know the job?
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
        self._waiting.tags[channel] = tag.decode()

    def forget_checkpoints(self) -> None:
        """Another engine has the job: what this one committed is old now."""
        self._waiting.tags.clear()

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

    async def flush(self, *, last: bool = False) -> None:
        """Write what waits. Never raises: a store that cannot be written is an event."""
        if not last and trio.current_time() < self._due_s:
            return
        batch, self._waiting = self._waiting, _Batch()
        try:
            await trio.to_thread.run_sync(self._write, batch)
        except StoreError as e:
            self._take_back(batch)
            self._due_s = trio.current_time() + AGAIN_S
            if not self.failing:
                log.error(f"{e} The sync goes on: the tags at the sites are what counts", kind="store")
            self.failing = str(e)
        else:
            if self.failing:
                log.info("the store is written again", kind="store")
            self.failing = ""

    def _take_back(self, batch: _Batch) -> None:
        """It was not written: it waits again, before what has come since."""
        newer = self._waiting
        self._waiting = _Batch(
            {**batch.tags, **newer.tags},
            [*batch.states, *newer.states][-WAITING_STATES_MAX:],
            [*batch.events, *newer.events][-WAITING_EVENTS_MAX:],
            newer.report or batch.report,
        )

    def _write(self, batch: _Batch) -> None:
        """In a worker thread: nothing of this object is changed here but the store."""
        if self._store is None:
            self._store = Store.open(self._job.store)
        name, store, now_ms = self._job.name, self._store, machine_ms()
        with store.transaction():
            if batch.tags:
                self._record_in(store)
            for channel, tag in batch.tags.items():
                store.save_checkpoint(name, channel, tag, now_ms)
            for state in batch.states:
                store.enter_state(name, *state)
            for event in batch.events:
                store.add_event(name, *event)
            if batch.report:
                store.save_report(name, batch.report, now_ms)

    def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()
