"""Token buckets keep their caps over any time, and a copy yields where answers are late. No clock, no sleep."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync.limits import Caps
from bisync.runtime import pace as module
from bisync.runtime.pace import BURST_S, ROUND, SHARE_FIRST, SHARE_MIN, SIZE_MIN, Bucket, Meter, Pace, Yielding

COSTS = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 500)), min_size=1, max_size=60)
"""(how long nothing was wanted before, cost)"""


def spent(bucket: Bucket, costs: Sequence[tuple[float, int]], now_s: float = 100.0) -> list[tuple[float, int]]:
    """When each was spent, by a sender that waits as long as it is told to."""
    found = []
    for idle_s, cost in costs:
        now_s += idle_s
        now_s += bucket.wait_s(cost, now_s)
        bucket.spend(cost, now_s)
        found.append((now_s, cost))
    return found


def most(found: Sequence[tuple[float, int]], rate: float) -> float:
    """By how much any window has more than the rate allows."""
    return max(
        sum(cost for _, cost in found[first : last + 1]) - rate * (found[last][0] - found[first][0])
        for first in range(len(found))
        for last in range(first, len(found))
    )


class TestBucket:
    @given(st.integers(1, 10_000), COSTS)
    def test_over_any_window_no_more_than_the_rate_and_one_burst(
        self, rate: int, costs: list[tuple[float, int]]
    ) -> None:
        found = spent(Bucket(rate), costs)
        assert most(found, rate) <= max(rate * BURST_S, 1.0, *(cost for _, cost in found)) + 1e-3

    @given(st.integers(1, 10_000), COSTS)
    def test_it_begins_empty(self, rate: int, costs: list[tuple[float, int]]) -> None:
        bucket = Bucket()
        bucket.set_rate(rate, 100.0)
        found = spent(bucket, [(0.0, cost) for _, cost in costs])
        larger = max(0.0, max(cost for _, cost in found) - bucket.burst)
        for n, (now_s, _) in enumerate(found):
            assert sum(cost for _, cost in found[: n + 1]) <= rate * (now_s - 100.0) + larger + 1e-3

    @given(st.integers(1, 10_000), st.integers(1, 2_000), st.integers(2, 40))
    def test_who_always_wants_more_gets_the_whole_rate(self, rate: int, cost: int, times: int) -> None:
        found = spent(Bucket(rate), [(0.0, cost)] * times)
        assert found[-1][0] - found[0][0] <= (times - 1) * cost / rate * (1 + 1e-6) + 1e-6

    @given(st.integers(1, 1_000), st.integers(1, 1_000), COSTS, COSTS)
    def test_a_changed_rate_holds_from_the_change_on(
        self, first: int, second: int, before: list[tuple[float, int]], after: list[tuple[float, int]]
    ) -> None:
        bucket = Bucket(first)
        now_s = spent(bucket, before)[-1][0]
        bucket.set_rate(second, now_s)
        found = spent(bucket, after, now_s)
        assert most(found, second) <= max(bucket.burst, *(cost for _, cost in found)) + 1e-3

    def test_without_a_cap_nothing_waits(self) -> None:
        assert spent(Bucket(), [(0, 10**9)] * 3) == [(100.0, 10**9)] * 3

    def test_a_debt_is_paid_at_the_new_rate(self) -> None:
        bucket = Bucket(10)
        now_s = spent(bucket, [(0, 1_005)])[0][0]
        assert bucket.wait_s(1, now_s) == pytest.approx(100.1)
        bucket.set_rate(1_000, now_s)
        assert bucket.wait_s(1, now_s) == pytest.approx(1.001)

    def test_a_clock_that_goes_back_gives_nothing(self) -> None:
        bucket = Bucket(10)
        spent(bucket, [(10, 5)])
        assert bucket.wait_s(5, 50.0) == pytest.approx(0.5) and bucket.wait_s(5, 50.0) == pytest.approx(0.5)


class TestPace:
    def test_the_slower_cap_counts(self) -> None:
        pace = Pace()
        pace.set_caps(Caps(100, 1_024), 0.0)
        assert pace.wait_s(1, 512, 0.0) == pytest.approx(0.5)
        assert pace.wait_s(50, 1, 0.0) == pytest.approx(0.5)

    def test_the_same_caps_again_change_nothing(self) -> None:
        pace = Pace()
        pace.set_caps(Caps(100, 0), 0.0)
        pace.spend(50, 0, 1.0)
        before = pace.wait_s(50, 0, 1.0)
        pace.set_caps(Caps(100, 0), 1.0)
        assert pace.wait_s(50, 0, 1.0) == before > 0

    @pytest.mark.parametrize(
        ("caps", "bounds"),
        [
            (Caps(), (4_096, 1 << 20)),
            (Caps(100, 0), (25, 1 << 20)),
            (Caps(1, 0), (1, 1 << 20)),
            (Caps(0, 1_024), (4_096, 256)),
            (Caps(10**9, 1 << 40), (4_096, 1 << 20)),
        ],
    )
    def test_transactions_are_as_small_as_the_caps_want_them(self, caps: Caps, bounds: tuple[int, int]) -> None:
        pace = Pace()
        pace.set_caps(caps, 0.0)
        assert pace.bounds(4_096, 1 << 20) == bounds

    def test_a_full_transaction_fits_into_the_bucket(self) -> None:
        for rate in (1, 3, 100, 12_345):
            pace = Pace()
            pace.set_caps(Caps(rate, 0), 0.0)
            assert pace.bounds(10**9, 1)[0] <= Bucket(rate).burst


def test_meter_tells_the_rates_of_the_last_second() -> None:
    meter = Meter()
    assert meter.look(10.0) == (0.0, 0.0)
    meter.add(100, 5_000)
    assert meter.look(10.9) == (0.0, 0.0)
    assert meter.look(12.0) == (50.0, 2_500.0)
    assert meter.look(14.0) == (0.0, 0.0)


class TestYielding:
    """Answers in µs."""

    @staticmethod
    def quiet(*trips: int) -> Yielding:
        yielding = Yielding()
        for n in range(40):
            yielding.felt_quiet(trips[n % len(trips)])
        return yielding

    @staticmethod
    def feel(yielding: Yielding, late: int = 0, rounds: int = 1) -> float:
        """So many of a round's answers are late, all others as always. The share then."""
        for _ in range(rounds):
            for n in range(ROUND):
                yielding.felt_beside(9_000 if n < late else 110)
        return yielding.share

    def test_late_answers_halve_the_share_and_others_let_it_grow(self) -> None:
        yielding = self.quiet(100)
        grown = self.feel(yielding)
        assert grown > SHARE_FIRST
        assert self.feel(yielding, late=3) == grown / 2
        assert self.feel(yielding) == grown / 2 + module.SHARE_STEP

    def test_the_share_has_bounds(self) -> None:
        yielding = self.quiet(100)
        assert self.feel(yielding, rounds=200) == 1.0
        assert self.feel(yielding, late=ROUND, rounds=200) == SHARE_MIN

    def test_a_target_that_is_slow_anyway_is_no_reason(self) -> None:
        assert self.feel(self.quiet(9_000), late=ROUND) > SHARE_FIRST
        assert self.feel(self.quiet(100, 100, 100, 9_000), late=ROUND // 4) > SHARE_FIRST
        assert self.feel(self.quiet(100, 100, 100, 9_000), late=ROUND // 2) < SHARE_FIRST

    def test_without_quiet_answers_nothing_is_known(self) -> None:
        yielding = Yielding()
        assert self.feel(yielding, late=ROUND, rounds=3) == SHARE_FIRST

    def test_a_smaller_share_makes_transactions_smaller_and_then_adds_pauses(self) -> None:
        shares = [1.0, 0.5, SIZE_MIN, SIZE_MIN / 2, SHARE_MIN]
        bounds = [Yielding(share).bounds(4_096, 1 << 20) for share in shares]
        assert bounds[:3] == [(4_096, 1 << 20), (2_048, 1 << 19), (int(4_096 * SIZE_MIN), int((1 << 20) * SIZE_MIN))]
        assert bounds[3] == bounds[4] == bounds[2]
        pauses = [Yielding(share).pause_s(0.001) for share in shares]
        assert pauses[:3] == [0, 0, 0] and 0 < pauses[3] < pauses[4]
        assert Yielding(SHARE_MIN).pause_s(1_000) == module.PAUSE_S_MAX
        assert Yielding(SHARE_MIN).bounds(20, 5_000) == (20, 5_000), "small ones hold nobody up"

    def test_it_settles_where_the_target_begins_to_answer_late(self) -> None:
        """A model: an answer waits for the rest of a transaction, which takes 8 ms at full size, 30 % of the time."""
        draw, yielding, shares = random.Random(5), self.quiet(100, 120, 150), []
        for n in range(20_000):
            executed_us = 8_000 * max(SIZE_MIN, yielding.share)
            waits = executed_us * draw.random() if draw.random() < 0.3 else 0
            yielding.felt_beside(int(100 + waits))
            shares.append(yielding.share)
        later = sorted(shares[4_000:])
        assert 0.03 < later[len(later) // 2] < 0.25, "late is more than 0.7 ms: a transaction of a tenth of the size"
