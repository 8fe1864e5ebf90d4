"""The passes of the engine's loop, for what they say about sockets: at a pass that did not report one it was empty.

The engine is one thread that waits for all its sockets at once. What a pass reports came after the pass before it; and
where the thread slept, it came at the very end of its sleep, because it would have been woken earlier. "Very end" is as
exact as the machine wakes the thread: how long it was kept from running Linux counts (the second number of
`/proc/thread-self/schedstat`, in ns; `Documentation/scheduler/sched-stats.rst`).

A thread that is frozen (SIGSTOP, a paused container) is not woken by what comes, and a pass that lasted so long is no
sleep. Linux counts how often a thread was put on a processor (the third number): once for a sleep, and once more for
what froze it. What is left: a freeze that begins within the few µs between the count and the sleep looks like a sleep.
Other systems tell nothing of this, nor does Linux of a whole machine that stands still.

Measured on Linux 6.18, on a busy machine: 1 µs for a pass that may not sleep, 4 µs for one that may, 10 µs for one
that did.
"""

import contextlib
import os
import time
from collections.abc import Iterator

import trio

from bisync.runtime.wallclock import WallClock

SLACK_US = 100  # of a wake-up that nothing held up: the switch to the thread, and the way to this code
UNKNOWN_SLACK_US = 1_000  # where the machine does not say how long a thread was kept from running
OTHERS_US = 20  # when other threads of the process ran for so long, they may have held the interpreter
NO_SLEEP_US = 1 << 62  # the whole pass may have been something else than a sleep


class Passes(trio.abc.Instrument):
    """Watches the loop of the thread that it was made in. All times in µs of the clock."""

    def __init__(self, clock: WallClock) -> None:
        self.clock = clock
        self._entered_us = self._since_us = clock.now_us()
        self._last_us = self._since_us  # the same of the pass before
        self._slept = False
        self._schedstat: int | None = None
        self._waited_ns = self._turns = self._others_ns = 0  # when the newest pass began to look

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch for the block."""
        with contextlib.suppress(OSError):
            self._schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        trio.lowlevel.add_instrument(self)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(self)
            if self._schedstat is not None:
                os.close(self._schedstat)
                self._schedstat = None

    @property
    def empty_us(self) -> int:
        """A socket that the newest pass reported, and that was waited for, was still empty at this time."""
        return self._since_us if self._slept else self._last_us

    @property
    def entered_us(self) -> int:
        """When the newest pass began to look at the sockets."""
        return self._entered_us

    def before_io_wait(self, timeout: float) -> None:
        """The loop looks at its sockets, and sleeps for `timeout` s at most."""
        self._entered_us = self.clock.now_us()
        if timeout > 0:
            self._others_ns = _others_ns()
            self._waited_ns, self._turns = self._scheduled()

    def after_io_wait(self, timeout: float) -> None:
        """It has looked."""
        now_us, entered_us = self.clock.now_us(), self._entered_us
        self._last_us = self._since_us
        self._since_us, self._slept = entered_us, False
        if timeout > 0 and now_us - entered_us > SLACK_US:
            woken_us = now_us - self._delay_us()
            if woken_us > entered_us:
                self._since_us, self._slept = woken_us, True

    def _delay_us(self) -> int:
        """How long the thread may have been kept from running since the newest pass began to look, at most."""
        delay_us = SLACK_US
        if _others_ns() - self._others_ns > OTHERS_US * 1000:
            delay_us = NO_SLEEP_US  # another thread may have held the interpreter when this one was woken
        if self._schedstat is None:
            return delay_us + UNKNOWN_SLACK_US
        waited_ns, turns = self._scheduled()
        if turns - self._turns != 1:
            return NO_SLEEP_US  # something froze it meanwhile
        return delay_us + (waited_ns - self._waited_ns) // 1000

    def _scheduled(self) -> tuple[int, int]:
        """How long the thread was kept from running in all, in ns, and how often it was put on a processor."""
        if self._schedstat is None:
            return 0, 0
        _, waited_ns, turns = os.pread(self._schedstat, 64, 0).split()
        return int(waited_ns), int(turns)


def _others_ns() -> int:
    """For how long the other threads of the process have run."""
    return time.process_time_ns() - time.thread_time_ns()
