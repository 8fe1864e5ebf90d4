"""What an engine says about itself: the report that `status` and `wait` read from the store."""

import itertools

import attrs
import trio

from bisync.core import states
from bisync.core.arbitration import Arbiter
from bisync.core.link import Item
from bisync.core.rules import Rules
from bisync.core.unit import Arbitration, Unit
from bisync.runtime.life import Life
from bisync.runtime.pacer import Pacer
from bisync.runtime.wallclock import WallClock, machine_ms
from bisync.status import NAMED, ChannelReport, Drained, LimitsReport, OpenUnit, Report
from bisync.text import shown

REPORT_S = 0.2  # while something changes
IDLE_REPORT_S = 1.0  # a report that is older than some seconds is a dead engine's
RATE_S = 1.0  # rates are of the last second or a little more
LOOKED_AT_MAX = 10_000  # open arbitrations; the oldest come first, so those that do not come to an end are among them
UNSETTLED_MAX = 20  # units in a report


@attrs.define
class _Totals:
    """Of a channel: what earlier lives did, and where the last rate was taken."""

    operations: int = 0
    bytes: int = 0
    mark: tuple[float, int, int] = (0.0, 0, 0)  # time in s, operations, bytes
    ops_per_s: float = 0.0
    bytes_per_s: float = 0.0


class Reporter:
    """Makes reports of a life. The engine sets `state` and `reason`; the mirror adds how many conflicts there were."""

    def __init__(self, rules: Rules, clock: WallClock, pid: int) -> None:
        self._rules, self._clock, self._pid = rules, clock, pid
        self._since_ms = machine_ms()
        self._totals = {x: _Totals() for x in rules.origins}
        self._epoch, self._quarantined = 0, 0
        self._since_of: dict[Unit, int] = {}  # ms since 1970: when each unit of the last report was first in one
        self._last: Report | None = None
        self._saved_s = 0.0
        self.state, self.reason = states.NOT_STARTED, ""
        self.silent = False
        self.pause_s = REPORT_S

    def life_ended(self, life: Life) -> None:
        """Add what a life did to the totals."""
        if life.pair is None:
            return
        self._epoch = life.epoch
        self._quarantined += life.quarantined
        for x, channel in life.pair.channels.items():
            self._totals[x].operations += channel.counters.operations
            self._totals[x].bytes += channel.counters.bytes

    def report(self, life: Life, *, last: bool = False) -> Report | None:
        """The report, or None where nothing has changed and the last one is young."""
        if self.silent:
            return None
        pair = life.pair
        unsettled, units = self._open_units(pair.arbiter) if pair else (0, ())
        report = Report(
            state=self.state,
            reason=self.reason,
            epoch=life.epoch or self._epoch,
            pid=self._pid,
            since_ms=self._since_ms,
            channels={self._rules.channel(x): self._channel(life, x) for x in self._rules.origins},
            conflicts_open=len(pair.arbiter) if pair else 0,
            drained=self._drained(life),
            quarantined=self._quarantined + life.quarantined,
            unsettled=unsettled,
            open_units=units,
            unrecorded=pair.arbiter.unrecorded if pair else 0,
            store_failing=life.mirror.failing,
        )
        now_s = trio.current_time()
        if report == self._last and not last and now_s - self._saved_s < IDLE_REPORT_S:
            return None
        self._last, self._saved_s = report, now_s
        return report

    def _open_units(self, arbiter: Arbiter) -> tuple[int, tuple[OpenUnit, ...]]:
        """How many open arbitrations could not be settled, and some units: those first, then a few of the others."""
        oldest = list(itertools.islice(arbiter, LOOKED_AT_MAX))
        stuck = [a for a in oldest if a.stuck]
        shown = stuck[:UNSETTLED_MAX]
        if len(shown) < NAMED:
            shown += list(itertools.islice((a for a in oldest if not a.stuck), NAMED - len(shown)))
        now_ms = machine_ms()
        self._since_of = {a.unit: self._since_of.get(a.unit, now_ms) for a in shown}
        return len(stuck), tuple(_as_told(a, self._since_of[a.unit]) for a in shown)

    def _drained(self, life: Life) -> dict[str, Drained]:
        if life.pair is None or not life.following:
            return {}
        tags = {x: life.tags.get(self._rules.channel(x)) for x in self._rules.origins if x in life.replids}
        return {x: Drained(life.replids[x], life.pair.drained(x), t.applied if t else None) for x, t in tags.items()}

    def _channel(self, life: Life, x: str) -> ChannelReport:
        totals = self._totals[x]
        if life.pair is None:
            return ChannelReport(state=self.state, applied_ops=totals.operations)
        channel = life.pair.channels[x]
        counters = channel.counters
        self._rate(totals, counters.operations, counters.bytes)
        forward = x == self._rules.source
        copying, copier = life.pair.copying, life.copier
        done, total = copying.keys, copying.keys if copying.ended or copier is None else copier.keys_total
        if life.reconciler is not None:
            done, total = life.reconciler.done, life.reconciler.total
        scan = copier.scan if copier is not None and forward else None
        state = states.SUSPENDED if channel.refused else self.state
        lag_bytes = None
        if channel.reader is not None and copying.finished:
            lag_bytes = max(0, life.intakes[x].journal.end - life.pair.drained(x))
        return ChannelReport(
            state=state,
            lag_ms=self._lag_ms(counters.lag_ms, channel.link.first_write),
            lag_bytes=lag_bytes,
            ops_per_s=totals.ops_per_s,
            bytes_per_s=totals.bytes_per_s,
            applied_ops=totals.operations + counters.operations,
            keys_done=done if forward else 0,
            keys_total=total if forward else None,
            bytes_done=copier.keys.bytes_done if forward and copier and copier.keys else 0,
            pending=len(channel.pending),
            limits=self._limits(life.pacer, x),
            target_keys_checked=scan.looked_at if scan else 0,
            target_keys_total=scan.total if scan else None,
        )

    def _limits(self, pacer: Pacer, x: str) -> LimitsReport:
        caps, sent = pacer.caps(x), pacer.sent(x)
        share = round(pacer.share, 3) if x == self._rules.source else 1.0
        return LimitsReport(caps.commands, caps.bytes, *sent, share)

    def _lag_ms(self, beat_ms: int | None, waiting: Item | None) -> float | None:
        """How old the newest applied write is: by the last heartbeat, or by what has waited here for longer."""
        if waiting is None or not waiting.read_ms:
            return beat_ms
        return max(beat_ms or 0, self._clock.now_ms() - waiting.read_ms)

    @staticmethod
    def _rate(totals: _Totals, operations: int, size: int) -> None:
        now_s = trio.current_time()
        then_s, operations_then, size_then = totals.mark
        if now_s - then_s >= RATE_S:
            operations += totals.operations
            size += totals.bytes
            if then_s:
                totals.ops_per_s = round((operations - operations_then) / (now_s - then_s), 1)
                totals.bytes_per_s = round((size - size_then) / (now_s - then_s), 1)
            totals.mark = now_s, operations, size


def _as_told(arbitration: Arbitration, since_ms: int) -> OpenUnit:
    unit = arbitration.unit
    element = None if unit.element is None else (unit.element[0], _text(unit.element[1]))
    return OpenUnit(unit.database, _text(unit.key), element, arbitration.stuck, since_ms)


def _text(data: bytes) -> str:
    return shown(data) if data else ""
