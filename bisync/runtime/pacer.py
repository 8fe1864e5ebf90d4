"""Letting each transaction go when the caps of its channel allow it, and feeling whether the copy is in clients' way.

The caps may change while the engine runs. What waits here was made by the core and not sent: it is in flight for the
core, and a life that ends meanwhile has sent nothing of it.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import hiredis
import trio

from bisync.config import Job
from bisync.core.pair import Pair
from bisync.core.resp import pack
from bisync.core.tag import tag_key
from bisync.errors import SiteError
from bisync.limits import Caps, in_force
from bisync.runtime.connection import Connection
from bisync.runtime.pace import QUIET_LEAST, UNCUT, Meter, Pace, Yielding
from bisync.runtime.passes import Passes

FEEL_S = 0.01  # between two questions beside the copy
BESIDE = 4  # so many of them between two for which the copy stands still
SETTLE_S = 0.003  # for so long before, so that the target sleeps: it must be woken for either kind
AGAIN_S = 1.0  # after a question that was not answered
DEBT_S = 0.5  # what a comparison has read and not paid for by waiting, at most, before it waits in the midst of a look
CLOCK_S = 1e-6  # the shortest wait: what is less may be nothing to the clock

T = TypeVar("T")


class Pacer:
    """The paces of a job's channels, by the site that they read. `say(level, kind, text)` notes an event."""

    def __init__(
        self, job: Job, passes: Passes, changed: Mapping[str, int], say: Callable[[str, str, str], None]
    ) -> None:
        """`changed`: the limits that the store has, by name."""
        self._job, self._passes, self._say = job, passes, say
        self._limits = in_force(job.limits, changed)
        self._pair: Pair | None = None
        self._paces = {site.name: Pace() for site in job.sites}
        self._readings = {site.name: Pace() for site in job.sites}  # of a comparison, by the site that is read
        self._meters = {site.name: Meter() for site in job.sites}
        self._yielding = Yielding(1.0)
        self._still = False  # does the copy stand still, so that the target's answers can be timed without it?
        self._closed = False
        self._resume_s = 0.0  # when the pause of the copy is over
        self._moved = trio.Event()  # something changed for those who wait
        self._under_way = False  # is a transaction of the forward channel at the target?
        self._paging = False  # is the target being asked for a page of its keys?
        self.waiting: set[str] = set()  # the channels, by origin, whose transaction waits here

    def begin_life(self, pair: Pair) -> None:
        """From here on the transactions are those of this pair."""
        self._pair, self._still, self._under_way, self._paging = pair, False, False, False
        self.waiting.clear()
        self._bound_all()

    def set(self, changed: Mapping[str, int]) -> None:
        """The limits that the store has now, by name."""
        limits = in_force(self._job.limits, changed)
        if limits != self._limits:
            self._limits = limits
            caps = ", ".join(
                f"{what} at most {_shown(limits.caps(copying=copying))}"
                for what, copying in (("the full copy", True), ("each channel that follows", False))
            )
            self._say("info", "limits", f"limits were changed: {caps}")
            self._bound_all()
            self._move()

    def close(self) -> None:
        """Nothing that waits here, or comes here, is sent any more."""
        self._closed = True
        self._move()

    def _move(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    # -- caps
    def _copies(self, x: str) -> bool:
        """Does this channel copy still? Once the finishing transaction is queued there is nothing else to copy."""
        assert self._pair is not None
        copying = self._pair.copying
        return x == self._pair.rules.source and not (copying.finishing or copying.finished)

    def _bound_all(self) -> None:
        if self._pair is not None:
            for x in self._pair.channels:
                self._bound(x)

    def _bound(self, x: str) -> Pace:
        """Let the transactions of a channel be no larger than its caps want them."""
        assert self._pair is not None
        rules, pace, copies = self._pair.rules, self._paces[x], self._copies(x)
        pace.set_caps(self._limits.caps(copying=copies), trio.current_time())
        commands, size = rules.batch_commands, rules.batch_bytes
        if copies:
            commands, size = self._yielding.bounds(commands, size)
        link = self._pair.channels[x].link
        link.batch_commands, link.batch_bytes = pace.bounds(commands, size)
        return pace

    async def admit(self, x: str, timeout_s: float) -> bool:
        """Wait until the transaction in flight of this channel may be sent, and count it; False: not in that time.

        Heartbeats and tags without anything else are not counted and wait for nothing.
        """
        assert self._pair is not None
        flight = self._pair.channels[x].link.in_flight
        assert flight is not None
        commands = sum(len(item.parts) for item in flight.items if item.kind != "beat")
        size = len(flight.payload) if commands else 0
        deadline_s = trio.current_time() + timeout_s
        self.waiting.add(x)
        try:
            while (wait_s := self._wait_s(x, commands, size)) > 0:
                left_s = deadline_s - trio.current_time()
                if left_s <= 0:
                    return False
                moved = self._moved
                with trio.move_on_after(min(wait_s, left_s)):
                    await moved.wait()
        finally:
            self.waiting.discard(x)
        if commands:
            self._paces[x].spend(commands, size, trio.current_time())
            self._meters[x].add(commands, size)
        self._under_way = self._under_way or x == self._pair.rules.source
        return True

    def _wait_s(self, x: str, commands: int, size: int) -> float:
        if self._closed:
            return float("inf")
        now_s = trio.current_time()
        wait_s = self._bound(x).wait_s(commands, size, now_s)
        if self._copies(x):
            wait_s = float("inf") if self._still else max(wait_s, self._resume_s - now_s)
        return wait_s

    def answered(self, x: str, took_s: float) -> None:
        """The transaction that was admitted was answered, so long after it was sent."""
        assert self._pair is not None
        if x == self._pair.rules.source:
            self._under_way = False
            self._move()
            if self._copies(x):
                self._resume_s = trio.current_time() + self._yielding.pause_s(took_s)

    async def page(self, keys: int, ask: Callable[[int], Awaitable[tuple[T, int]]]) -> T:
        """Ask the target for a page of its keys beside the copy, when a transaction of the copy might go too.

        `ask(n)` asks for about so many keys, `keys` or fewer, and returns the page and how many bytes it has. It counts
        as one command and as those bytes.
        """
        assert self._pair is not None
        x = self._pair.rules.source
        while (wait_s := self._wait_s(x, 1, 1)) > 0:
            moved = self._moved
            with trio.move_on_after(max(CLOCK_S, wait_s)):
                await moved.wait()
        some = min(keys, self._yielding.bounds(keys, 0)[0], max(UNCUT[0], self._paces[x].bounds(keys, 0)[0]))
        self._paging, began_s = True, trio.current_time()
        try:
            page, size = await ask(some)
        finally:
            self._paging = False
            self._move()
        now_s = trio.current_time()
        self._paces[x].spend(1, size, now_s)
        self._meters[x].add(1, size)
        self._resume_s = max(self._resume_s, now_s + self._yielding.pause_s(now_s - began_s))
        return page

    # -- comparing
    @property
    def caps_reading(self) -> bool:
        """Has a comparison to keep caps at present? May be asked by another thread."""
        return self._limits.caps(copying=True) != Caps()

    async def compared(self, x: str, commands: int, size: int) -> None:
        """A site was asked so much to compare its keys: so many commands, and bytes both ways.

        Each site has all of the copy's caps for it. Waits where too much was read that is not paid for yet.
        """
        self._debt_s(x)  # as the caps are now, before it is counted
        self._readings[x].spend(commands, size, trio.current_time())
        await self._pay(x, DEBT_S)

    async def rest(self) -> float:
        """Wait until all that was compared is paid for. How long that took, in s."""
        began_s = trio.current_time()
        for x in self._readings:
            await self._pay(x, 0.0)
        return trio.current_time() - began_s

    async def _pay(self, x: str, least_s: float) -> None:
        while (debt_s := self._debt_s(x)) > least_s:
            moved = self._moved  # the caps may change
            with trio.move_on_after(max(CLOCK_S, debt_s - least_s)):
                await moved.wait()

    def _debt_s(self, x: str) -> float:
        now_s = trio.current_time()
        self._readings[x].set_caps(self._limits.caps(copying=True), now_s)
        return self._readings[x].debt_s(now_s)

    def caps(self, x: str) -> Caps:
        """The caps of the channel that reads `x` at present."""
        return self._paces[x].caps

    def sent(self, x: str) -> tuple[float, float]:
        """Commands and bytes per second that this channel sent lately, counted as the caps count them."""
        return self._meters[x].look(trio.current_time())

    @property
    def share(self) -> float:
        """Which part of its usual pace the copy takes, where it yields; else 1."""
        return self._yielding.share

    # -- yielding
    async def feel(self) -> None:
        """Time the target's answers until the copy is finished. Without answers the copy does not yield."""
        assert self._pair is not None
        self._resume_s = 0.0
        target = self._job.site(self._pair.rules.target)
        timeout_s = self._job.engine.connect_timeout_ms / 1000
        while not self._pair.copying.finished:
            if not self._limits.copy_yields:
                await trio.sleep(AGAIN_S)
                continue
            try:
                async with Connection.open(target, timeout_s) as connection:
                    await self._keep_feeling(connection)
            except SiteError:
                await trio.sleep(AGAIN_S)  # the channel itself says what is wrong with the site
        self._set_share(Yielding(1.0))

    def _set_share(self, yielding: Yielding) -> None:
        self._yielding = yielding
        self._bound_all()
        self._move()

    async def _keep_feeling(self, connection: Connection) -> None:
        assert self._pair is not None
        question = pack(b"GET", tag_key(self._pair.rules.job, self._pair.rules.channel(self._pair.rules.source)))
        self._set_share(Yielding())
        for _ in range(QUIET_LEAST):
            await trio.sleep(FEEL_S)
            await self._feel_quiet(connection, question)
        while self._limits.copy_yields and not self._pair.copying.finished:
            await self._feel_quiet(connection, question)
            for _ in range(BESIDE):
                await trio.sleep(FEEL_S)
                if self._yielding.felt_beside(await self._trip_us(connection, question)):
                    self._bound_all()
        if not self._limits.copy_yields:
            self._set_share(Yielding(1.0))

    async def _feel_quiet(self, connection: Connection, question: bytes) -> None:
        """The copy stands still for one answer."""
        self._still = True
        try:
            while self._under_way or self._paging:
                await self._moved.wait()
            await trio.sleep(SETTLE_S)
            self._yielding.felt_quiet(await self._trip_us(connection, question))
        finally:
            self._still = False
            self._move()

    async def _trip_us(self, connection: Connection, question: bytes) -> int:
        """How long an answer takes, by the time at which the system received it, whatever keeps this process."""
        parser = hiredis.Reader(notEnoughData=_MORE)
        sent_us = self._passes.clock.now_us()
        await connection.send(question)
        while True:
            received = await connection.receive_dated(self._passes)
            parser.feed(received.data)
            if parser.gets() is not _MORE:
                return max(0, received.came_us - sent_us)


_MORE = object()


def _shown(caps: Caps) -> str:
    words = [f"{n:,} {unit}" for n, unit in ((caps.commands, "commands/s"), (caps.bytes, "bytes/s")) if n]
    return " and ".join(words) or "what it can"
