"""An engine: lives, one after the other, until it is told to stop, is superseded, or meets what waiting cannot heal.

There is one way to recover, whatever happened: forget everything, take the tags of both sites, read both streams from
their floors, go on. So it is in use all the time.
"""

import os
import pathlib
import secrets
import signal
from collections.abc import Callable

import attrs
import trio

from bisync.config import Job
from bisync.conflict_options import core_policy
from bisync.core import states
from bisync.core.rules import Rules
from bisync.core.tag import Tag
from bisync.core.taking import Memory
from bisync.errors import BisyncError, HistoryGap, SiteError, StoreError, StreamError, Superseded, TagLost
from bisync.runtime.connection import Connection
from bisync.runtime.copier import Shelf
from bisync.runtime.failure import single_error
from bisync.runtime.intake import Intake
from bisync.runtime.journal import Journal
from bisync.runtime.life import Life
from bisync.runtime.mirror import Mirror
from bisync.runtime.pacer import Pacer
from bisync.runtime.passes import Passes
from bisync.runtime.reporter import Reporter
from bisync.runtime.store import Store
from bisync.runtime.wallclock import WallClock
from bisync.runtime.writer import Writer

PAUSE_S_MIN = 0.1
GOOD_LIFE_S = 10.0  # a life that lasted so long begins the pauses anew
STOP_S_MAX = 10.0  # how long a stop waits for the transaction under way
DAMAGES_MAX = 3  # streams that cannot be parsed, in a row


def rules_of(job: Job) -> Rules:
    """What the core must know of a job file."""
    bidirectional = job.topology == "bidirectional"
    swapdb = job.commands.swapdb or ("stop" if bidirectional else "pass")
    return Rules(
        job=job.name,
        source=job.source.name,
        target=job.target.name,
        bidirectional=bidirectional,
        scope=job.objects,
        policy=core_policy(job.conflicts.policy),
        policies=job.conflicts.policies,
        actions={**attrs.asdict(job.commands), "swapdb": swapdb},
        target_not_empty=job.full_copy.target_not_empty,
        on_gap=job.full_copy.on_gap,
        on_refused=job.engine.on_refused,
        heartbeat_ms=job.engine.heartbeat_ms,
        checkpoint_every_ms=job.engine.checkpoint_every_ms,
        batch_commands=job.engine.batch_commands,
        batch_bytes=job.engine.batch_bytes,
        queue_bytes=job.engine.queue_bytes,
        pending_bytes=job.engine.pending_bytes,
        conflict_value_bytes=job.conflicts.value_bytes,
        rebuild_bytes=job.conflicts.rebuild_bytes,
        whole_bytes=job.full_copy.whole_bytes,
        piece_bytes=job.full_copy.piece_bytes,
    )


class Engine:
    """Runs one job in this process. `precheck` is called before the first copy, and raises where it must not begin."""

    def __init__(
        self,
        job: Job,
        precheck: Callable[[], None] = lambda: None,
        progress: Callable[[Life], None] = lambda life: None,
    ) -> None:
        self.job, self.rules = job, rules_of(job)
        self.name = secrets.token_hex(4)
        self._precheck, self._progress = precheck, progress
        self._clock = WallClock()
        self._store = _open_store(job)
        self._mirror = Mirror(job, self._store)
        folder = job.journal_folder if job.engine.journal == "disk" else None
        limit, warn, clock = job.engine.journal_bytes, self._warn, self._clock
        self._journals = {x: Journal(x, folder, limit, warn, clock) for x in self.rules.origins}
        self._passes = Passes(clock)
        self._pacer = Pacer(job, self._passes, self._mirror.settings, self._mirror.event)
        self._mirror.tell_settings = self._pacer.set
        self._shelf = Shelf(job.journal_folder, job.full_copy.spool_bytes)
        self._intakes: dict[str, Intake] = {}
        self._memory = self._remembered()
        self._life = self._new_life()
        self._reporter = Reporter(self.rules, self._clock, os.getpid())

    def _warn(self, text: str) -> None:
        self._mirror.event("warning", "journal", text)

    def _remembered(self) -> Memory:
        """What the store's copy of the tags says; used only where a site has lost its tag."""
        tags = {}
        for name in (self.rules.channel(x) for x in self.rules.origins):
            text = self._store.checkpoint(self.job.name, name) if self._store else None
            if text:
                tags[name] = Tag.decode(text.encode())
        return Memory(tags=tags)

    def _new_life(self) -> Life:
        return Life(
            *(self.job, self.rules, self.name, self._memory, self._intakes, self._mirror, self._clock, self._shelf),
            self._pacer,
        )

    # -- the course
    async def run(self) -> None:
        """Run until SIGTERM or SIGINT. Raises Superseded, or the BisyncError that waiting cannot heal."""
        self._mirror.record_job()
        try:
            _check_folder(self.job.journal_folder)
            with single_error(), self._passes.watching():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._stop_on_signal, nursery.cancel_scope)
                    nursery.start_soon(self._keep_reporting)
                    await self._live(nursery)
        except BisyncError as e:
            self._fail(e)
            raise
        except Exception as e:
            self._fail(BisyncError(f"bisync met an error of its own: {type(e).__name__}", hint="please report it"))
            raise
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(STOP_S_MAX):
                await self._save_report(last=True)
                await trio.to_thread.run_sync(self._mirror.close)
            self._shelf.clear(keep=True)
            for journal in self._journals.values():
                journal.close()

    def _open_intakes(self, nursery: trio.Nursery) -> None:
        timeout_s, pause_s_max = self.job.engine.connect_timeout_ms / 1000, self.job.engine.retry_pause_ms_max / 1000
        for x, journal in self._journals.items():
            self._intakes[x] = Intake(
                *(self.job.site(x), journal, nursery, timeout_s, pause_s_max, self._passes),
                dated=self.rules.bidirectional,  # a one-way job compares no times
            )

    async def _live(self, nursery: trio.Nursery) -> None:
        self._open_intakes(nursery)
        pause_s, damages = PAUSE_S_MIN, 0
        self._enter(states.PRECHECKING)
        while True:
            began_s, anew = trio.current_time(), ""
            try:
                with single_error():
                    if not await self._has_begun():
                        await trio.to_thread.run_sync(self._precheck, abandon_on_cancel=True)
                    self._enter(states.INITIALIZING if self._unfinished() else self._reporter.state)
                    await self._life.run()
            except (SiteError, StreamError, TagLost) as e:
                damages = damages + 1 if isinstance(e, StreamError) else 0
                anew = self._begins_anew(e)
                if (isinstance(e, SiteError) and not e.heals and not anew) or damages >= DAMAGES_MAX:
                    raise
                if isinstance(e, TagLost):
                    self._shelf.forget()  # what took the tag away may have taken copied keys away
                if isinstance(e, StreamError):
                    for x in [e.site] if e.site else self._intakes:
                        self._intakes[x].discard()  # the next life finds no floor there, and asks the server
                if trio.current_time() - began_s > GOOD_LIFE_S:
                    pause_s = PAUSE_S_MIN
                if anew:
                    self._enter(states.INITIALIZING, str(e))
                else:
                    self._suspend(e, pause_s)
            self._keep_memory()
            self._memory = attrs.evolve(self._memory, anew=anew) if anew else self._memory
            self._life = self._new_life()
            await trio.sleep(pause_s)
            pause_s = min(pause_s * 2, self.job.engine.retry_pause_ms_max / 1000)

    def _begins_anew(self, error: BisyncError) -> str:
        """Must the job begin anew, as a stream has a gap? The site whose values stand then; empty: it must not."""
        choice = self.job.full_copy.on_gap
        if not isinstance(error, HistoryGap) or choice == "stop":
            return ""
        source = self.rules.source
        stands = self.rules.other(error.site) if error.new_history and choice == "reconcile" else source
        if choice == "full":
            does = f"{source} is copied again"
        else:
            does = f"both sites are reconciled; where values differ and no site is preferred, that of {stands} stands"
        why = f" ({error.why})" if error.why else ""
        self._mirror.event("warning", "gap", f"{error.what}{why}. on_gap is {choice!r}: {does}")
        return stands

    async def _has_begun(self) -> bool:
        """Does a site, or the store, hold a tag of this job? Then its precheck was passed once, and the job goes on."""
        if self._memory.epoch or self._memory.tags:
            return True
        try:
            return any([await self._is_tagged(origin) for origin in self.rules.origins])
        except SiteError:
            return False  # the precheck says what is wrong with it

    async def _is_tagged(self, origin: str) -> bool:
        site = self.job.site(self.rules.other(origin))
        async with Connection.open(site, self.job.engine.connect_timeout_ms / 1000) as connection:
            return await Writer(connection, self.rules, self.rules.channel(origin)).watch_tag() is not None

    def _unfinished(self) -> bool:
        return self._reporter.state in (states.PRECHECKING, states.INITIALIZING)

    def _keep_memory(self) -> None:
        """What the next life must remember of this one."""
        life = self._life
        if life.epoch and life.pair is not None:
            tags = {**self._memory.tags, **life.tags}
            notes = {site: dict(notes) for site, notes in life.pair.rounds.notes.items()}
            self._memory = Memory(life.epoch, self.name, tags, notes)
        self._reporter.life_ended(life)

    # -- states
    def _enter(self, state: str, reason: str = "") -> None:
        if (state, reason) != (self._reporter.state, self._reporter.reason):
            self._mirror.state(state, reason)
        self._reporter.state, self._reporter.reason = state, reason

    def _suspend(self, error: BisyncError, pause_s: float) -> None:
        again = f"; bisync tries again in {pause_s:g} s"
        self._mirror.event("warning", "suspended", f"{error}{again}")
        copied = self._life.pair is None or self._life.pair.copying.done
        self._enter(states.SUSPENDED if copied else states.INITIALIZING, str(error))

    def _fail(self, error: BisyncError) -> None:
        if isinstance(error, Superseded):
            self._mirror.event("warning", "superseded", str(error), logged=False)
            self._reporter.silent = True  # report and checkpoints are the other engine's from here on
            self._mirror.forget_checkpoints()
            return
        pair = self._life.pair
        before = {states.PRECHECKING: states.PRECHECK_FAILED, states.INITIALIZING: states.INITIALIZE_FAILED}
        state = before.get(self._reporter.state, states.FAILED)
        if pair is not None and pair.copying.done:
            state = states.FAILED
        self._mirror.event("error", state, str(error), logged=False)
        self._enter(state, str(error))

    # -- beside the sync
    async def _keep_reporting(self) -> None:
        while True:
            if self._life.following:
                away = next((i.away for i in self._intakes.values() if i.away), "") or self._life.refused
                self._enter(states.SUSPENDED if away else states.SYNCHRONIZING, away)
            self._progress(self._life)
            await self._save_report()
            await self._mirror.pause(self._reporter.pause_s)

    async def _save_report(self, *, last: bool = False) -> None:
        report = self._reporter.report(self._life, last=last)
        if report is not None:
            self._mirror.report(report.to_dict())
        await self._mirror.flush(last=last)

    async def _stop_on_signal(self, scope: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                with trio.move_on_after(STOP_S_MAX):
                    await self._life.quiesce()
                self._mirror.event("info", "stopped", "stopped by a signal; nothing is under way")
                self._enter(states.SUSPENDED, "stopped by a signal")
                scope.cancel()


def _open_store(job: Job) -> Store | None:
    """The store; None where it cannot be used at present (a full disk), as the sync does not depend on it."""
    try:
        store = Store.open(job.store)
        store.report(job.name)
    except StoreError as e:
        if e.heals:
            return None
        raise
    return store


def _check_folder(folder: pathlib.Path) -> None:
    """Something else in the folder's place is a mistake, not a disk that may have room again."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        hint = "move the file away, or give the job another store"
        raise BisyncError(f"{folder} is not a folder, so no journal can be kept there", hint=hint)
