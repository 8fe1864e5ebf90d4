"""Writing to the checkpoint store beside the sync: it may be slow or fail without holding up a single write.

The tags at the sites are what counts. When the store cannot be written, that is said once, the sync goes on, and what
is newest is written when the store can be used again.
"""

import collections
from typing import Any

import structlog
import trio

from bisync.config import Job
from bisync.errors import StoreError
from bisync.runtime.store import Store

WAITING_EVENTS_MAX = 1000  # kept while the store cannot be written; the log has them all
AGAIN_S = 2.0  # the pause after a failed write

log = structlog.get_logger()


class Mirror:
    """What waits to be written, and the store it goes to."""

    def __init__(self, job: Job, store: Store | None) -> None:
        self._job, self._store = job, store
        self._tags: dict[str, str] = {}
        self._states: list[tuple[str, str, int]] = []
        self._events: collections.deque[tuple[int, str, str, str]] = collections.deque(maxlen=WAITING_EVENTS_MAX)
        self._report: tuple[dict[str, Any], int] | None = None
        self._due_s = 0.0
        self._recorded = False  # does the store know the job?
        self.failing = ""  # why the store cannot be written at present

    def record_job(self, at_ms: int) -> None:
        """Compare the job with what the store knows of it. Raises StoreError where that is another one.

        A job that has not begun is not recorded yet: its file may still be mended. Nor is a store that cannot be
        written at present a reason to stop. Both are made up for with the first checkpoint.
        """
        try:
            if self._store is not None and self._has_begun(self._store):
                self._record_in(self._store, at_ms)
        except StoreError as e:
            if not e.heals:
                raise

    def _has_begun(self, store: Store) -> bool:
        return any(store.checkpoint(self._job.name, channel) for channel in ("forward", "reverse"))

    def _record_in(self, store: Store, at_ms: int) -> None:
        if not self._recorded:
            store.record_job(self._job.name, self._job.topology, [s.name for s in self._job.sites], at_ms)
            self._recorded = True

    def checkpoint(self, channel: str, tag: bytes) -> None:
        """The newest committed tag of a channel."""
        self._tags[channel] = tag.decode()

    def state(self, state: str, reason: str, at_ms: int) -> None:
        """The job has entered a state."""
        self._states = [*self._states[-50:], (state, reason, at_ms)]

    def event(self, at_ms: int, level: str, kind: str, text: str, *, logged: bool = True) -> None:
        """Something a person may want to know later. Also goes to the log, unless somebody else says it."""
        if logged:
            getattr(log, level)(text, kind=kind, job=self._job.name)
        self._events.append((at_ms, level, kind, text))

    def report(self, report: dict[str, Any], at_ms: int) -> None:
        """How the job is doing now."""
        self._report = report, at_ms

    async def flush(self, *, last: bool = False) -> None:
        """Write what waits. Never raises: a store that cannot be written is an event."""
        if not last and trio.current_time() < self._due_s:
            return
        try:
            await trio.to_thread.run_sync(self._write)
        except StoreError as e:
            self._due_s = trio.current_time() + AGAIN_S
            if not self.failing:
                log.error(f"{e} The sync goes on: the tags at the sites are what counts", kind="store")
            self.failing = str(e)
        else:
            if self.failing:
                log.info("the store is written again", kind="store")
            self.failing = ""

    def _write(self) -> None:
        if self._store is None:
            self._store = Store.open(self._job.store)
        name, store = self._job.name, self._store
        tags, states, events, report = dict(self._tags), self._states[:], list(self._events), self._report
        with store.transaction():
            if tags:
                self._record_in(store, report[1] if report else 0)
            for channel, tag in tags.items():
                store.save_checkpoint(name, channel, tag, report[1] if report else 0)
            for state in states:
                store.enter_state(name, *state)
            for event in events:
                store.add_event(name, *event)
            if report:
                store.save_report(name, *report)
        self._tags = {c: t for c, t in self._tags.items() if tags.get(c) != t}
        self._states = self._states[len(states) :]
        for _ in events:
            if self._events:
                self._events.popleft()

    def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()
