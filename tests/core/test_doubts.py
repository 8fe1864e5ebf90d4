"""What is kept of writes that are forgotten: nothing that matters may escape it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bisync.core.pair
from bisync.core.channel import open_channel
from bisync.core.commands import row
from bisync.core.copying import Copying
from bisync.core.doubts import Doubts, KeyFilter
from bisync.core.moment import BEFORE_ALL
from bisync.core.operation import Operation, copied_operation
from bisync.core.pending import Pending, PendingWrites
from bisync.core.position import START, Clock
from bisync.core.rules import Rules
from bisync.testing.pair import SimulatedPair

PLACES = st.tuples(st.integers(0, 15), st.binary(max_size=20))


def operation(*args: bytes, database: int = 0) -> Operation:
    return Operation(args, database, b"", database, row(args[0]))


def write(offset: int, *operations: Operation) -> Pending:
    return Pending(clock(offset), offset - 1, list(operations), START, BEFORE_ALL, 10)


def clock(offset: int) -> Clock:
    return 0, 1, offset


class TestKeyFilter:
    @given(held=st.sets(PLACES, max_size=50), others=st.sets(PLACES, max_size=50))
    def test_it_holds_all_that_was_put_in_and_hardly_anything_else(self, held: set, others: set) -> None:
        keys = KeyFilter(1 << 16)
        for place in held:
            keys.add(place)
        assert all(place in keys for place in held)
        assert not any(place in keys for place in others - held)

    def test_one_that_is_small_holds_more_than_was_put_in(self) -> None:
        """So the test above is about its size, and not about a set in disguise."""
        keys = KeyFilter(16)
        for n in range(200):
            keys.add((0, b"%d" % n))
        assert all((0, b"other %d" % n) in keys for n in range(20))

    def test_an_empty_one_takes_no_memory(self) -> None:
        assert not KeyFilter() and (0, b"k") not in KeyFilter()


def made() -> Doubts:
    """Of a job whose source is being copied; nothing pending is within the bound."""
    return Doubts(Rules("job", "east", "west", pending_bytes=1), Copying(copy=1))


def forget(doubts: Doubts, forgotten: Pending) -> None:
    """A write of the target is applied at the source, and is too much."""
    channel = open_channel(doubts._rules, "west", {}, {})
    channel.applied = forgotten.clock
    channel.pending.add(forgotten)
    doubts.forget_applied(channel)
    assert not len(channel.pending)


class TestDoubts:
    def test_a_copied_key_of_a_forgotten_write_is_doubtful(self) -> None:
        doubts = made()
        forget(doubts, write(100, operation(b"SET", b"k", b"1")))
        assert doubts and not doubts.concern((0, b"k"))
        doubts.look("east", copied_operation(0, b"k", stale=False), START)
        assert doubts.concern((0, b"k")) and not doubts.concern((1, b"k")) and not doubts.concern((0, b"other"))

    def test_what_had_seen_every_forgotten_write_is_not(self) -> None:
        doubts = made()
        forget(doubts, write(100, operation(b"SET", b"k", b"1")))
        doubts.look("east", operation(b"SET", b"k", b"2"), clock(100))
        assert not doubts.concern((0, b"k"))
        doubts.look("east", operation(b"SET", b"k", b"2"), clock(99))
        assert doubts.concern((0, b"k"))

    def test_what_was_computed_from_a_forgotten_writes_key_is_doubtful(self) -> None:
        doubts = made()
        forget(doubts, write(100, operation(b"SADD", b"a", b"1")))
        doubts.look("east", operation(b"SUNIONSTORE", b"sum", b"a", b"b"), START)
        assert doubts.concern((0, b"sum"))

    def test_what_a_forgotten_write_computed_is_doubtful_at_once(self) -> None:
        doubts = made()
        forget(doubts, write(100, operation(b"SUNIONSTORE", b"sum", b"a", b"b")))
        assert doubts.concern((0, b"sum")) and not doubts.concern((0, b"a"))

    def test_a_forgotten_flush_makes_every_key_doubtful(self) -> None:
        doubts = made()
        forget(doubts, write(100, operation(b"FLUSHALL")))
        assert doubts.concern((3, b"whatever"))

    def test_a_flush_that_had_not_seen_a_forgotten_write_makes_every_key_doubtful(self) -> None:
        doubts = made()
        forget(doubts, write(100, operation(b"SET", b"k", b"1")))
        doubts.look("east", operation(b"FLUSHALL"), START)
        assert doubts.concern((3, b"whatever"))

    def test_where_nothing_is_compared_any_more_both_writes_of_a_meeting_are_doubtful(self) -> None:
        across = PendingWrites()
        across.add(write(100, operation(b"RENAME", b"a", b"b")))
        doubts = made()
        doubts.met(copied_operation(0, b"other", stale=False), across)
        assert not doubts
        doubts.met(copied_operation(0, b"a", stale=False), across)
        assert doubts.concern((0, b"a")) and doubts.concern((0, b"b")) and not doubts.concern((0, b"other"))

    def test_all_is_compared(self) -> None:
        doubts = made()
        forget(doubts, write(100, operation(b"FLUSHALL")))
        doubts.clear()
        assert not doubts and doubts.upto == START and not doubts.concern((0, b"k"))


class TestInAPair:
    """A full copy between simulated sites, with a bound on pending writes that the target's clients pass at once."""

    RULES = Rules("job", "east", "west", heartbeat_ms=0, target_not_empty="overwrite", pending_bytes=8_000)

    def copying(self, *source: tuple[bytes, ...]) -> SimulatedPair:
        """The snapshot is taken, and no key of it is copied."""
        pair = SimulatedPair(self.RULES)
        pair.write("east", *source)
        pair.start()
        while not pair.pair.copying.copy:
            pair.read("east", 1)
        return pair

    def write(self, pair: SimulatedPair, *commands: tuple[bytes, ...]) -> None:
        """Clients of the target write, and the source takes it."""
        for command in commands:
            pair.write("west", command)
        while pair.read("west", 1 << 16) | pair.deliver("west") | pair.answer("west"):
            pass

    def fill(self, pair: SimulatedPair) -> None:
        for n in range(8):
            self.write(pair, (b"RPUSH", b"filled", b"%d" % n))

    def test_what_was_forgotten_and_copied_over_is_made_good(self) -> None:
        pair = self.copying((b"SADD", b"k", b"a"), (b"SET", b"gone", b"1"), (b"SET", b"other", b"1"))
        self.write(pair, (b"SADD", b"k", b"b"), (b"SET", b"gone", b"2"), (b"DEL", b"gone"))
        self.fill(pair)
        assert pair.pair.doubts.forgotten >= 2
        pair.drain()
        assert pair.equal
        assert pair.dataset("west")[0, b"k"][1] == {b"a", b"b"} and (0, b"gone") not in pair.dataset("west")
        assert not pair.pair.doubts and pair.pair.copying.done

    def test_a_crash_before_the_comparison_is_over_leaves_nothing_uncompared(self) -> None:
        pair = self.copying((b"SADD", b"k", b"a"))
        self.write(pair, (b"SADD", b"k", b"b"))
        self.fill(pair)
        while not pair.pair.copying.finished:
            assert any([pair.read(x, 1 << 16) | pair.deliver(x) | pair.answer(x) for x in ("east", "west")])
        assert not pair.pair.copying.done
        pair.start()
        pair.drain()
        assert pair.equal and pair.dataset("west")[0, b"k"][1] == {b"a", b"b"}

    def test_what_was_computed_from_a_doubtful_key_is_made_good_at_any_remove(self) -> None:
        """Be it computed before the first write was forgotten or after that, and be it still pending at the end."""
        pair = self.copying((b"SADD", b"k", b"a"))
        for command in (
            (b"SADD", b"k", b"b"),
            (b"SUNIONSTORE", b"sum", b"k"),
            (b"SET", b"x", b"1"),
            (b"COPY", b"sum", b"before"),
            (b"SET", b"y", b"1"),
            (b"COPY", b"sum", b"after"),
        ):
            self.write(pair, command)
        assert [o.args[0] for _, o in pair.pair.channels["west"].pending.all()] == [b"COPY", b"SET", b"COPY"]
        pair.drain()
        held = pair.dataset("west")
        assert pair.equal and held[0, b"before"][1] == held[0, b"after"][1] == {b"a", b"b"}

    def test_where_too_much_is_unsettled_the_rest_is_compared(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bisync.core.pair, "OPEN_MAX", 2)
        keys = [b"k%d" % n for n in range(5)]
        pair = self.copying(*((b"SET", key, b"east") for key in keys))
        self.write(pair, *((b"APPEND", key, b"+west") for key in keys))
        while not pair.pair.copying.finished:
            assert any([pair.read(x, 1 << 16) | pair.deliver(x) | pair.answer(x) for x in ("east", "west")])
            assert len(pair.pair.arbiter) <= 3
        pair.drain()
        assert pair.equal and {pair.dataset("west")[0, key][1] for key in keys} == {b"east+west"}
