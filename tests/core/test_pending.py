"""Pending writes: found by their keys, forgotten in order."""

from hypothesis import given
from hypothesis import strategies as st

from bisync.core import commands
from bisync.core.operation import Operation
from bisync.core.pending import NEWEST, Pending, PendingWrites
from bisync.core.position import START, copied_clock, stream_clock
from bisync.core.resp import pack

keys = st.sampled_from([b"a", b"b", b"c"])
writes = st.one_of(
    st.tuples(st.just(b"SET"), keys, st.just(b"v")),
    st.tuples(st.just(b"RENAME"), keys, keys),
    st.tuples(st.just(b"SUNIONSTORE"), keys, keys),
    st.just((b"FLUSHALL",)),
)


def operation(*args: bytes, database: int = 0) -> Operation:
    return Operation(args, database, pack(*args), database, commands.row(args[0]))


def pending(n: int, *operations: Operation) -> Pending:
    return Pending(stream_clock(0, n), n, list(operations), START, 0, 10)


def touches(one: Operation, other: Operation) -> bool:
    """Is a key in both, written or read? A flush touches every key."""

    def places(o: Operation) -> set[tuple[int, bytes]]:
        return {(w.database, w.key) for w in o.footprint.writes} | set(o.footprint.reads)

    everything = commands.EVERY_KEY in places(one) | places(other)
    return everything or bool(places(one) & places(other))


@given(st.lists(st.tuples(st.lists(writes, min_size=1, max_size=3), st.integers(0, 1)), max_size=12), writes, st.data())
def test_a_write_meets_exactly_the_pending_ones_that_touch_its_keys(
    drawn: list[tuple[list[tuple[bytes, ...]], int]], mine: tuple[bytes, ...], data: st.DataObject
) -> None:
    subject, model = PendingWrites(), []
    asked = operation(*mine)
    for n, (commands_, database) in enumerate(drawn, 1):
        model.append(pending(n, *(operation(*c, database=database) for c in commands_)))
        subject.add(model[-1])
        if data.draw(st.booleans()):
            list(subject.touching(asked, lambda place: False))  # the index is made at any moment
        seen = stream_clock(0, data.draw(st.integers(0, n)))
        gone = [p for p in model if p.clock <= seen]
        assert subject.seen_back(seen) == gone
        model = model[len(gone) :]
    expected = [(id(p), id(o)) for p in model for o in p.operations if touches(o, asked)]
    met = [(id(p), id(o)) for p, o in subject.touching(asked, lambda place: False)]
    assert sorted(met) == sorted(expected)
    assert len(set(met)) == len(met)
    assert (len(subject), subject.size) == (len(model), 10 * len(model))
    assert subject.oldest is (model[0] if model else None)


def test_two_writes_are_concurrent_when_neither_had_seen_the_other() -> None:
    def write(offset: int, seen: int) -> Pending:
        return Pending(stream_clock(0, offset), offset, [], stream_clock(0, seen), 0, 1)

    assert write(10, seen=40).concurrent(write(50, seen=9))
    assert not write(10, seen=50).concurrent(write(50, seen=9))
    assert not write(10, seen=40).concurrent(write(50, seen=10))


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_being_concurrent_is_mutual(a: int, b: int, c: int, d: int) -> None:
    one = Pending(stream_clock(0, a), a, [], stream_clock(0, b), 0, 1)
    other = Pending(stream_clock(0, c), c, [], stream_clock(0, d), 0, 1)
    assert one.concurrent(other) == other.concurrent(one)


def test_what_was_computed_from_a_key_is_found_by_it() -> None:
    subject = PendingWrites()
    renamed, set_, flushed = operation(b"RENAME", b"a", b"b"), operation(b"SET", b"a", b"v"), operation(b"FLUSHALL")
    for n, o in enumerate((renamed, set_, flushed), 1):
        subject.add(pending(n, o))
    assert renamed in [o for _, o in subject.reading((0, b"a"))]
    assert set_ not in [o for _, o in subject.reading((0, b"a"))]
    assert renamed not in [o for _, o in subject.reading((1, b"a"))]


def test_copied_keys_among_them_are_known() -> None:
    subject = PendingWrites()
    assert not subject.holds_copied()
    subject.add(Pending(copied_clock(1, 1), 0, [], START, 0, 1))
    subject.add(Pending(stream_clock(1, 5), 0, [], START, 0, 1))
    assert subject.holds_copied()
    subject.seen_back(copied_clock(1, 1))
    assert not subject.holds_copied()


def test_of_a_key_that_is_being_settled_only_the_newest_are_met() -> None:
    subject = PendingWrites()
    for n in range(NEWEST + 10):
        subject.add(pending(n + 1, operation(b"SET", b"k", b"%d" % n)))
    met = subject.touching(operation(b"SET", b"k", b"v"), lambda place: True)
    assert [p.start for p, _ in met] == [n + 1 for n in reversed(range(10, NEWEST + 10))]
