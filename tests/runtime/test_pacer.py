"""Pages of the target's keys, and what a comparison reads, wait for the copy's caps. The time is a mock's."""

from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any

import attrs
import trio
from trio.testing import MockClock

from bisync.limits import Limits
from bisync.runtime.pace import BURST_S, SHARE_MIN, UNCUT, Yielding
from bisync.runtime.pacer import DEBT_S, Pacer

TAKES_S = 0.01  # the target's answer to a question for a page


def pacer(**limits: Any) -> Pacer:
    """The pacer of a job that copies from east to west."""
    sites = (SimpleNamespace(name="east"), SimpleNamespace(name="west"))
    job = SimpleNamespace(sites=sites, limits=Limits(**limits))
    return Pacer(job, None, {}, lambda *_: None)  # type: ignore[arg-type]


def begin(subject: Pacer) -> None:
    """A life of that job, whose copy is under way."""
    rules = SimpleNamespace(source="east", batch_commands=4_096, batch_bytes=1 << 20)
    channels = {"east": SimpleNamespace(link=SimpleNamespace(batch_commands=0, batch_bytes=0))}
    copying = SimpleNamespace(finishing=False, finished=False)
    subject.begin_life(SimpleNamespace(rules=rules, channels=channels, copying=copying))  # type: ignore[arg-type]


def timed(subject: Pacer, main: Callable[[], Awaitable[Any]]) -> float:
    """Run it within a life. How long it took by the mock's clock, in s."""

    async def run() -> float:
        begin(subject)
        began_s = trio.current_time()
        await main()
        return trio.current_time() - began_s

    return trio.run(run, clock=MockClock(autojump_threshold=0))


@attrs.define
class Target:
    """Gives pages of names, each of `size` bytes. `asked`: for how many keys, page by page."""

    keys: int
    size: int = 20
    asked: list[int] = attrs.field(factory=list)

    async def scan(self, by: Pacer) -> None:
        while self.keys > 0:
            self.keys -= await by.page(1_000, self._page)

    async def _page(self, count: int) -> tuple[int, int]:
        await trio.sleep(TAKES_S)
        self.asked.append(count)
        return count, count * self.size


class TestPages:
    def test_without_caps_they_come_one_after_the_other(self) -> None:
        target = Target(10_000)
        assert timed((subject := pacer()), lambda: target.scan(subject)) < 11 * TAKES_S
        assert target.asked == [1_000] * 10

    def test_their_bytes_are_under_the_copys_cap(self) -> None:
        target, rate = Target(10_000), 20_000
        took_s = timed((subject := pacer(copy_bytes_per_s=rate)), lambda: target.scan(subject))
        assert took_s >= (10_000 - 1_000) * 20 / rate - BURST_S, "what the last one costs is not waited for"

    def test_each_is_a_command_under_the_copys_cap_and_has_fewer_keys(self) -> None:
        target = Target(10_000)
        assert (
            timed((subject := pacer(copy_commands_per_s=10)), lambda: target.scan(subject))
            >= 10_000 / UNCUT[0] / 10 - BURST_S - 0.2
        )
        assert set(target.asked) == {UNCUT[0]}

    def test_another_cap_holds_at_once(self) -> None:
        subject = pacer(copy_commands_per_s=1)

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Target(3_000).scan, subject)
                await trio.sleep(1.5)
                subject.set({"copy_commands_per_s": 0})

        assert 1.5 <= timed(subject, main) < 2.0

    def test_a_copy_that_yields_asks_for_less_and_pauses(self) -> None:
        target, subject = Target(1_000), pacer()
        subject._yielding = Yielding(SHARE_MIN)
        took_s = timed(subject, lambda: target.scan(subject))
        assert set(target.asked) == {UNCUT[0]}
        assert took_s >= 4 * TAKES_S * (len(target.asked) - 1), "it pauses three quarters of the time"

    def test_they_are_told_as_sent(self) -> None:
        subject = pacer()
        told = []

        async def main() -> None:
            subject.sent("east")
            await Target(10_000).scan(subject)
            await trio.sleep(2 - trio.current_time() % 1)
            told.append(subject.sent("east"))

        timed(subject, main)
        commands, size = told[0]
        assert commands > 0 and size == 1_000 * 20 * commands

    def test_none_is_under_way_while_the_copy_stands_still_to_time_answers(self) -> None:
        """A question that is timed without the copy is timed without a page too."""
        subject, target = pacer(), Target(50_000)
        seen: list[tuple[int, int]] = []

        class Connection:
            """Each answer takes a while; the pages that were asked for before and after it."""

        async def trip_us(connection: Any, question: bytes) -> int:
            before = len(target.asked)
            await trio.sleep(10 * TAKES_S)
            seen.append((before, len(target.asked)))
            return 100

        subject._trip_us = trip_us  # type: ignore[method-assign]

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(target.scan, subject)
                for _ in range(5):
                    await trio.sleep(TAKES_S / 2)
                    await subject._feel_quiet(Connection(), b"?")  # type: ignore[arg-type]

        timed(subject, main)
        assert len(seen) == 5 and all(before == after for before, after in seen), seen
        assert seen[0][0] < seen[-1][0] < 50, "pages were read in between"

    def test_one_that_fails_leaves_nothing_behind(self) -> None:
        subject = pacer()

        async def fail(count: int) -> tuple[int, int]:
            raise OSError

        async def main() -> None:
            try:
                await subject.page(1_000, fail)
            except OSError:
                await Target(1_000).scan(subject)

        timed(subject, main)
        assert not subject._paging


class TestComparing:
    """What is asked of a site to compare its keys."""

    @staticmethod
    def reading(subject: Pacer, times: int, commands: int, size: int, *, rest: bool = True) -> float:
        async def main() -> None:
            for _ in range(times):
                if rest:
                    await subject.rest()
                await subject.compared("east", commands, size)

        return timed(subject, main)

    def test_without_caps_nothing_waits(self) -> None:
        subject = pacer(follow_commands_per_s=1)
        assert not subject.caps_reading
        assert self.reading(subject, 100, 1_000, 1 << 20) == 0

    def test_it_keeps_the_copys_caps(self) -> None:
        subject = pacer(copy_commands_per_s=1_000)
        assert subject.caps_reading
        assert self.reading(subject, 50, 100, 1 << 20) >= 49 * 100 / 1_000 - BURST_S
        subject = pacer(copy_bytes_per_s=10_000)
        assert self.reading(subject, 50, 1, 1_000) >= 49 * 1_000 / 10_000 - BURST_S

    def test_within_a_look_it_waits_only_for_much(self) -> None:
        subject = pacer(copy_commands_per_s=1_000)
        assert self.reading(subject, 4, 100, 0, rest=False) == 0
        assert self.reading(subject, 1, 1_000, 0, rest=False) >= 1.4 - DEBT_S - 0.01

    def test_each_site_has_all_of_the_caps(self) -> None:
        subject, took = pacer(copy_commands_per_s=100), list[float]()

        async def main() -> None:
            for x in ("east", "west"):
                began_s = trio.current_time()
                await subject.compared(x, 100, 0)
                took.append(trio.current_time() - began_s)

        timed(subject, main)
        assert [round(t, 3) for t in took] == [0.5, 0.5]

    def test_other_caps_hold_at_once(self) -> None:
        subject = pacer(copy_commands_per_s=1)

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(subject.compared, "east", 1_000, 0)
                await trio.sleep(2.0)
                changed: Mapping[str, int] = {"copy_commands_per_s": 10_000}
                subject.set(changed)

        assert 2.0 <= timed(subject, main) < 2.2
