"""The passes of the engine's loop, for what they say about sockets: at a pass that did not report one it was empty.

The engine is one thread that waits for all its sockets at once. What a pass reports came after the pass before it; and
where the thread slept, it came at the very end of its sleep, because it would have been woken earlier. "Very end" is as
exact as the machine wakes the thread: how long it was kept from running Linux counts (the second number of
`/proc/thread-self/schedstat`, in ns; `Documentation/scheduler/sched-stats.rst`).

Measured on Linux 6.18, on a busy machine: 8 µs for a pass that slept, 1 µs for others.
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


class Passes(trio.abc.Instrument):
    """Watches the loop of the thread that it was made in. All times in µs of the clock."""

    def __init__(self, clock: WallClock) -> None:
        self.clock = clock
        self._entered_us = self._since_us = clock.now_us()
        self._last_us = self._since_us  # the same of the pass before
        self._slept = False
        self._schedstat: int | None = None
        self._waited_ns = self._others_ns = 0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch for the block."""
        with contextlib.suppress(OSError):
            self._schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        self._delay_us()
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

    def after_io_wait(self, timeout: float) -> None:
        """It has looked."""
        now_us, entered_us = self.clock.now_us(), self._entered_us
        self._last_us = self._since_us
        self._since_us, self._slept = entered_us, False
        if now_us - entered_us > SLACK_US:
            woken_us = now_us - self._delay_us()
            if woken_us > entered_us:
                self._since_us, self._slept = woken_us, True

    def _delay_us(self) -> int:
        """How long the thread may have been kept from running since the last call, at most."""
        others_ns = time.process_time_ns() - time.thread_time_ns()
        others_ns, self._others_ns = others_ns - self._others_ns, others_ns
        if others_ns > OTHERS_US * 1000:
            delay_us = 1 << 62  # another thread may have held the interpreter when this one was woken
        else:
            delay_us = SLACK_US
        if self._schedstat is None:
            return delay_us + UNKNOWN_SLACK_US
        waited_ns = int(os.pread(self._schedstat, 64, 0).split()[1])
        waited_ns, self._waited_ns = waited_ns - self._waited_ns, waited_ns
        return delay_us + waited_ns // 1000
