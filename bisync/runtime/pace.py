"""How fast a channel may send: token buckets, and a copy that yields to the target's clients. No clock is read here.

A *bucket* fills with the rate of its cap and holds BURST_S of it. What costs more than a full bucket goes when the
bucket is full, and leaves a debt. So in any time t no more is spent than rate * t, and one full bucket or the dearest
single thing, whichever is more. A cap makes the sender wait; nothing is ever dropped.

A copy *yields* by its share (1: as fast as it can). The target's answers to a tiny question are timed while the copy
goes on (*beside* it) and while it stands still for a moment. Where the former are late, the share is halved; where they
are not, it grows by a small step: additive increase, multiplicative decrease, as TCP does it (RFC 5681). A smaller
share first makes the transactions smaller, because a client waits while one is executed, and then adds pauses.
"""

import collections
import statistics

import attrs

from bisync.limits import Caps

BURST_S = 0.5  # a bucket holds what its cap allows in so long
SLICE_S = 0.25  # a transaction is no larger than what its cap allows in so long, where it can be cut
METER_S = 1.0  # measured rates are of the last second or a little more

SHARE_MIN, SHARE_FIRST, SHARE_STEP = 1 / 128, 1 / 16, 0.01  # with the least one it pauses three quarters of the time
SHARE_GROWTH = 1.25  # until the first answers are late
SIZE_MIN = 1 / 32  # of the usual size of transactions; a smaller share adds pauses
UNCUT = 128, 32 << 10  # commands and bytes of a transaction that hold nobody up: they are not cut further
ROUND = 20  # answers beside the copy after which the share is changed
LATE = 0.03  # so many more of them may be late than of those while the copy stood still
QUIET_KEPT, QUIET_LEAST = 50, 10  # answers while the copy stood still; with fewer nothing is known
LATE_FACTOR, LATE_US = 2, 500  # late: later than so often the usual quiet one, and so much
PAUSE_S_MAX = 0.1


@attrs.define
class Bucket:
    """Tokens for one cap. Times in s of any clock that does not go back; empty in the beginning."""

    rate: float = 0  # tokens per s; 0: no cap
    _tokens: float = 0  # negative: a debt
    _at_s: float = 0

    @property
    def burst(self) -> float:
        """How many tokens it holds, one at least."""
        return max(1.0, self.rate * BURST_S)

    def set_rate(self, rate: float, now_s: float) -> None:
        """Another cap from now on. A debt stays; from no cap to one it begins empty."""
        self._fill(now_s)
        self._tokens = min(self._tokens, max(1.0, rate * BURST_S)) if self.rate else 0.0
        self.rate = rate

    def wait_s(self, cost: float, now_s: float) -> float:
        """How long to wait before so much may be spent; 0: not at all."""
        if not self.rate or not cost:
            return 0.0
        self._fill(now_s)
        return max(0.0, (min(cost, self.burst) - self._tokens) / self.rate)

    def spend(self, cost: float, now_s: float) -> None:
        """It is spent, whether there was enough or not."""
        if self.rate:
            self._fill(now_s)
            self._tokens -= cost

    def debt_s(self, now_s: float) -> float:
        """How long until what was spent is paid for."""
        if not self.rate:
            return 0.0
        self._fill(now_s)
        return max(0.0, -self._tokens / self.rate)

    def _fill(self, now_s: float) -> None:
        passed_s = max(0.0, now_s - self._at_s)
        self._at_s = max(self._at_s, now_s)
        if self.rate:
            self._tokens = min(self.burst, self._tokens + passed_s * self.rate)


@attrs.define
class Meter:
    """What was sent, and how much of it lately."""

    commands_per_s: float = 0.0
    bytes_per_s: float = 0.0
    _sent: tuple[int, int] = (0, 0)  # since the mark
    _mark_s: float | None = None

    def add(self, commands: int, size: int) -> None:
        """So much was sent."""
        self._sent = self._sent[0] + commands, self._sent[1] + size

    def look(self, now_s: float) -> tuple[float, float]:
        """Commands and bytes per second, of the last second or a little more."""
        if self._mark_s is None:
            self._mark_s = now_s
        passed_s = now_s - self._mark_s
        if passed_s >= METER_S:
            self.commands_per_s, self.bytes_per_s = (round(n / passed_s, 1) for n in self._sent)
            self._sent, self._mark_s = (0, 0), now_s
        return self.commands_per_s, self.bytes_per_s


@attrs.define
class Pace:
    """Both caps of one channel."""

    caps: Caps = attrs.field(factory=Caps)
    _commands: Bucket = attrs.field(factory=Bucket)
    _bytes: Bucket = attrs.field(factory=Bucket)

    def set_caps(self, caps: Caps, now_s: float) -> None:
        """Other caps from now on."""
        if caps != self.caps:
            self.caps = caps
            self._commands.set_rate(caps.commands, now_s)
            self._bytes.set_rate(caps.bytes, now_s)

    def wait_s(self, commands: int, size: int, now_s: float) -> float:
        """How long to wait before a transaction with so many commands and bytes may go."""
        return max(self._commands.wait_s(commands, now_s), self._bytes.wait_s(size, now_s))

    def spend(self, commands: int, size: int, now_s: float) -> None:
        """It goes."""
        self._commands.spend(commands, now_s)
        self._bytes.spend(size, now_s)

    def debt_s(self, now_s: float) -> float:
        """How long until what was spent is paid for."""
        return max(self._commands.debt_s(now_s), self._bytes.debt_s(now_s))

    def bounds(self, commands: int, size: int) -> tuple[int, int]:
        """How many commands and bytes a transaction may have under the caps, which without them may have so many."""
        caps = self.caps
        return (
            min(commands, max(1, int(caps.commands * SLICE_S))) if caps.commands else commands,
            min(size, max(1, int(caps.bytes * SLICE_S))) if caps.bytes else size,
        )


@attrs.define
class Yielding:
    """Which share of its usual pace the copy takes. Round trips of a tiny question to the target, in µs."""

    share: float = SHARE_FIRST
    _smooth: bool = True  # has no answer been late so far?
    _quiet: "collections.deque[int]" = attrs.field(factory=lambda: collections.deque(maxlen=QUIET_KEPT))
    _beside: list[int] = attrs.field(factory=list)

    @property
    def late_us(self) -> float:
        """An answer that takes longer is late."""
        return statistics.median(self._quiet) * LATE_FACTOR + LATE_US if self._quiet else 0.0

    def felt_quiet(self, trip_us: int) -> None:
        """An answer while the copy stood still."""
        self._quiet.append(trip_us)

    def felt_beside(self, trip_us: int) -> bool:
        """An answer while the copy went on. Has the share changed?"""
        self._beside.append(trip_us)
        if len(self._quiet) < QUIET_LEAST or len(self._beside) < ROUND:
            return False
        before, late_us = self.share, self.late_us
        late = sum(trip > late_us for trip in self._beside) / len(self._beside)
        anyway = sum(trip > late_us for trip in self._quiet) / len(self._quiet)
        self._beside.clear()
        if late > anyway + LATE:
            self.share, self._smooth = max(SHARE_MIN, self.share / 2), False
        else:
            grown = self.share * SHARE_GROWTH if self._smooth else 0.0
            self.share = min(1.0, max(grown, self.share + SHARE_STEP))
        return self.share != before

    def bounds(self, commands: int, size: int) -> tuple[int, int]:
        """How many commands and bytes a transaction of the copy may have, which else may have so many."""
        part = max(SIZE_MIN, self.share)
        return max(min(commands, UNCUT[0]), int(commands * part)), max(min(size, UNCUT[1]), int(size * part))

    def pause_s(self, took_s: float) -> float:
        """How long to pause after a transaction that took so long."""
        busy = min(1.0, self.share / SIZE_MIN)
        return min(PAUSE_S_MAX, took_s * (1 / busy - 1))
