"""What an engine says of its open arbitrations, and at what price."""

import time
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import trio

from bisync.config import Job
from bisync.core.rules import Rules
from bisync.core.unit import Arbitration, Unit
from bisync.runtime.life import Life
from bisync.runtime.mirror import Mirror
from bisync.runtime.reporter import LOOKED_AT_MAX, UNSETTLED_MAX, Reporter
from bisync.runtime.wallclock import WallClock
from bisync.status import NAMED, Report
from bisync.text import SHOWN_MAX

RULES = Rules("orders", "east", "west")


@attrs.define
class Arbiter:
    """As much of the core's as the reporter looks at."""

    open: list[Arbitration] = attrs.field(factory=list)
    found: int = 0
    unrecorded: int = 0
    looked_at: int = 0

    def __len__(self) -> int:
        return len(self.open)

    def __iter__(self) -> Iterator[Arbitration]:
        for arbitration in self.open:
            self.looked_at += 1
            yield arbitration


@attrs.define
class Pair:
    """A pair with open arbitrations and nothing else."""

    arbiter: Arbiter
    channels: dict[str, Any] = attrs.field(factory=dict)


def arbitration(key: bytes, why: str = "", element: tuple[str, bytes] | None = None) -> Arbitration:
    return Arbitration(Unit(3, key, element), "east", None, {"east": 0, "west": 0}, stuck=why)


@pytest.fixture
def arbiter() -> Arbiter:
    return Arbiter()


@pytest.fixture
def life(arbiter: Arbiter) -> Life:
    nothing: Any = None
    job: Job = nothing
    life = Life(job, RULES, "engine", nothing, {}, Mirror(job, None), WallClock(), nothing, nothing)
    pair: Any = Pair(arbiter)
    life.pair = pair
    return life


def reporter() -> Reporter:
    return Reporter(attrs.evolve(RULES), WallClock(), 1)


def report(reporter: Reporter, life: Life) -> Report:
    async def ask() -> Report | None:
        return reporter.report(life, last=True)

    # the figures of the channels are of no interest here
    reporter._channel = lambda life, x: None  # type: ignore[method-assign, assignment, return-value]
    told = trio.run(ask)
    assert told is not None
    return told


def test_units_that_cannot_be_settled_come_before_others(life: Life, arbiter: Arbiter) -> None:
    arbiter.open = [arbitration(b"a"), arbitration(b"b\xff", "OOM"), arbitration(b"h", "NOPERM", ("hash", b"f"))]
    arbiter.open += [arbitration(b"%d" % n) for n in range(9)]
    told = report(reporter(), life)
    assert (told.conflicts_open, told.unsettled) == (12, 2)
    assert [(u.key, u.element, u.why) for u in told.open_units] == [
        *[("b\\xff", None, "OOM"), ("h", ("hash", "f"), "NOPERM"), ("a", None, "")],
        *[("0", None, ""), ("1", None, "")],
    ]
    assert len(told.open_units) == NAMED and {u.database for u in told.open_units} == {3}


def test_a_unit_keeps_the_time_when_it_was_first_reported(
    life: Life, arbiter: Arbiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ms = [1_000]
    monkeypatch.setattr("bisync.runtime.reporter.machine_ms", lambda: now_ms[0])
    told_by = reporter()
    arbiter.open = [arbitration(b"a", "OOM")]
    assert [u.since_ms for u in report(told_by, life).open_units] == [1_000]
    now_ms[0] = 2_000
    arbiter.open.append(arbitration(b"b", "OOM"))
    assert [u.since_ms for u in report(told_by, life).open_units] == [1_000, 2_000]
    arbiter.open = []
    assert report(told_by, life).open_units == ()
    arbiter.open = [arbitration(b"a", "OOM")]
    assert [u.since_ms for u in report(told_by, life).open_units] == [2_000], "settled, and open anew"


def test_report_is_bounded_however_many_are_open(life: Life, arbiter: Arbiter) -> None:
    long = b"k" * 10_000
    arbiter.open = [arbitration(b"%d" % n + long[: 1_000_000 // (n + 1)], "why") for n in range(LOOKED_AT_MAX + 500)]
    told = report(reporter(), life)
    assert len(told.open_units) == UNSETTLED_MAX and arbiter.looked_at <= LOOKED_AT_MAX + 1
    assert (told.conflicts_open, told.unsettled) == (LOOKED_AT_MAX + 500, LOOKED_AT_MAX)
    assert all(len(u.key) < SHOWN_MAX + 30 and "… (" in u.key for u in told.open_units)
    arbiter.open = [arbitration(b"s", "why", ("set", b"m" * 10_000))]
    (unit,) = report(reporter(), life).open_units
    assert unit.element == ("set", "m" * SHOWN_MAX + "… (10,000 bytes)")


def test_report_is_cheap_with_ten_thousand_open(life: Life, arbiter: Arbiter) -> None:
    arbiter.open = [arbitration(b"%d" % n) for n in range(10_000)]
    told_by = reporter()
    report(told_by, life)
    best_s = 1.0
    for _ in range(5):
        began_s = time.perf_counter()
        report(told_by, life)
        best_s = min(best_s, time.perf_counter() - began_s)
    assert best_s < 0.05, "a few reports are made every second"


def test_what_waits_for_the_store_is_told_with_the_reason(life: Life, arbiter: Arbiter) -> None:
    arbiter.unrecorded, life.mirror.failing = 5, "the disk is full"
    told = report(reporter(), life)
    assert (told.unrecorded, told.store_failing) == (5, "the disk is full")


def test_without_a_pair_nothing_is_open(life: Life) -> None:
    life.pair = None
    told = report(reporter(), life)
    assert (told.conflicts_open, told.unsettled, told.open_units) == (0, 0, ())
