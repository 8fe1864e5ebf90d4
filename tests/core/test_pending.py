"""Pending writes: found by their keys, forgotten in order."""

from hypothesis import given
from hypothesis import strategies as st

from bisync.core import commands
from bisync.core.awaited import AwaitedEcho
from bisync.core.moment import Moment
from bisync.core.operation import Operation
from bisync.core.pending import OPERATION_BYTES, Pending, PendingWrites, places_of
from bisync.core.position import START, copied_clock, stream_clock
from bisync.core.resp import pack
from bisync.core.tag import Tag

NOW = Moment(0, 0)
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
    return Pending(stream_clock(0, n), n, list(operations), START, NOW, 10)


def met(subject: PendingWrites, asked: Operation) -> list[tuple[Pending, Operation]]:
    """What `asked` must be compared with: each pending operation that writes or reads a key of it, or every key."""
    places = places_of(asked)
    if commands.EVERY_KEY in places:
        return list(subject.all())
    nears = [near for place in places if (near := subject.near(place)) is not None]
    found = {id(held[1]): held for near in nears for held in near.all}
    return [*found.values(), *subject.wide.held]


def touches(one: Operation, other: Operation) -> bool:
    """Is a key in both, written or read? A flush touches every key."""
    everything = commands.EVERY_KEY in places_of(one) | places_of(other)
    return everything or bool(places_of(one) & places_of(other))


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
            met(subject, asked)  # the index is made at any moment
        seen = stream_clock(0, data.draw(st.integers(0, n)))
        gone = [p for p in model if p.clock <= seen]
        assert list(subject.up_to(seen)) == gone
        assert subject.seen_back(seen) == gone
        model = model[len(gone) :]
    expected = [(id(p), id(o)) for p in model for o in p.operations if touches(o, asked)]
    found = [(id(p), id(o)) for p, o in met(subject, asked)]
    assert sorted(found) == sorted(expected)
    assert len(set(found)) == len(found)
    assert (len(subject), subject.bytes) == (len(model), sum(write.memory for write in model))
    assert subject.oldest is (model[0] if model else None)


def test_two_writes_are_concurrent_when_neither_had_seen_the_other() -> None:
    def write(offset: int, seen: int) -> Pending:
        return Pending(stream_clock(0, offset), offset, [], stream_clock(0, seen), NOW, 1)

    assert write(10, seen=40).concurrent(write(50, seen=9))
    assert not write(10, seen=50).concurrent(write(50, seen=9))
    assert not write(10, seen=40).concurrent(write(50, seen=10))


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_being_concurrent_is_mutual(a: int, b: int, c: int, d: int) -> None:
    one = Pending(stream_clock(0, a), a, [], stream_clock(0, b), NOW, 1)
    other = Pending(stream_clock(0, c), c, [], stream_clock(0, d), NOW, 1)
    assert one.concurrent(other) == other.concurrent(one)


def test_what_was_computed_from_a_key_is_found_by_it() -> None:
    subject = PendingWrites()
    renamed, set_, flushed = operation(b"RENAME", b"a", b"b"), operation(b"SET", b"a", b"v"), operation(b"FLUSHALL")
    for n, o in enumerate((renamed, set_, flushed), 1):
        subject.add(pending(n, o))
    assert renamed in [o for _, o in subject.reading((0, b"a"))]
    assert set_ not in [o for _, o in subject.reading((0, b"a"))]
    assert renamed not in [o for _, o in subject.reading((1, b"a"))]


def test_what_was_computed_from_a_key_is_found_by_it_also_where_many_operations_touch_the_key() -> None:
    subject, computed = PendingWrites(), []
    for n in range(1, 101):
        made = operation(*((b"COPY", b"a", b"c%d" % n) if n % 10 == 0 else (b"SET", b"a", b"%d" % n)))
        computed += [made] if n % 10 == 0 else []
        subject.add(pending(n, made))
    found = [o for _, o in subject.reading((0, b"a"))]
    assert [o for o in found if o in computed] == computed
    assert len(found) == len(computed), "asked for each key that becomes unequal: all else is left out"
    subject.seen_back(stream_clock(0, 55))
    assert [o for _, o in subject.reading((0, b"a"))] == computed[5:]


def test_copied_keys_among_them_are_known() -> None:
    subject = PendingWrites()
    assert not subject.holds_copied()
    subject.add(Pending(copied_clock(1, 1), 0, [], START, NOW, 1))
    subject.add(Pending(stream_clock(1, 5), 0, [], START, NOW, 1))
    assert subject.holds_copied()
    subject.seen_back(copied_clock(1, 1))
    assert not subject.holds_copied()


def test_what_waits_counts_with_all_that_it_takes_in_memory() -> None:
    subject = PendingWrites()
    subject.add(pending(1, operation(b"SET", b"a", b"v"), operation(b"SET", b"b", b"v")))
    subject.add(pending(2, operation(b"SET", b"a", b"v")))
    assert subject.bytes == 20 + 3 * OPERATION_BYTES
    subject.seen_back(stream_clock(0, 2))
    assert subject.bytes == 0


@given(st.lists(writes, max_size=4), writes)
def test_what_touches_no_key_of_a_pending_write_meets_nothing(
    drawn: list[tuple[bytes, ...]], mine: tuple[bytes, ...]
) -> None:
    subject, asked = PendingWrites(), operation(*mine)
    for n, command in enumerate(drawn, 1):
        subject.add(pending(n, operation(*command)))
    places = places_of(asked) - {commands.EVERY_KEY}
    if places:
        assert subject.touch(places) == any(touches(operation(*command), asked) for command in drawn)
    assert subject.touch([(3, b"a")]) == any(command[0] == b"FLUSHALL" for command in drawn)


def test_awaited_echoes_count_as_memory_of_what_is_pending() -> None:
    subject = PendingWrites()
    subject.add(pending(1, operation(b"SET", b"a", b"v")))
    before = subject.bytes
    echo = AwaitedEcho(b"payload", 7, b"marker", Tag("job", 1, "engine"), 0, [], False, True)
    subject.awaited.add(echo, 1 << 20)
    assert subject.bytes == before + echo.memory
    subject.awaited.seen(b"marker")
    assert subject.bytes == before
