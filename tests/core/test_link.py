"""The queue towards one shard."""

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync.core.link import ITEM_BYTES, PART_BYTES, Item, Link
from bisync.core.position import stream_clock
from bisync.core.resp import pack
from bisync.core.tag import Tag, tag_key

KEY = tag_key("job", "forward")
TAG = Tag("job", 1, "e")


def link(commands: int = 100, size: int = 10_000) -> Link:
    return Link(KEY, batch_commands=commands, batch_bytes=size)


def item(n: int, *databases: int, size: int = 10) -> Item:
    parts = [(d, pack(b"SET", b"k%d" % n, b"%d" % d)) for d in databases or (0,)]
    return Item("write", parts, size, stream_clock(0, n), (n, 0))


def words(payload: bytes) -> list[list[bytes]]:
    reader = hiredis.Reader()
    reader.feed(payload)
    found = []
    while (command := reader.gets()) is not False:
        found.append(command)
    return found


def send(subject: Link, items: list[Item]) -> list[list[bytes]]:
    return words(subject.send(items, stream_clock(0, 1), TAG, list).payload)


def test_a_transaction_begins_with_the_tag_and_ends_with_the_guard_of_the_next() -> None:
    sent = send(link(), [item(1)])
    assert sent == [
        [b"MULTI"],
        [b"SET", KEY, TAG.encode()],
        [b"SET", b"k1", b"0"],
        [b"EXEC"],
        [b"SELECT", b"0"],
        [b"WATCH", KEY],
        [b"GET", KEY],
    ]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), max_size=6))
def test_each_command_runs_in_its_database_and_each_reply_finds_its_item(drawn: list[list[int]]) -> None:
    subject = link()
    items = [item(n, *databases) for n, databases in enumerate(drawn)]
    flight = subject.send(items, stream_clock(0, 1), TAG, list)
    sent = words(flight.payload)
    assert flight.replies == len(sent)
    database, inside, ran = b"0", sent[1 : sent.index([b"EXEC"])], []
    for command in inside[1:]:
        if command[0] == b"SELECT":
            database = command[1]
        else:
            ran.append((int(database), command))
            assert command[2] == database
    assert [c for _, c in ran] == [c for i in items for _, part in i.parts for c in words(part)]
    for n in range(len(items)):  # the replies stand for the commands themselves here
        mine = [c for c in flight.replies_of(n, inside) if isinstance(c, list) and c[0] != b"SELECT"]
        assert mine == [c for _, part in items[n].parts for c in words(part)]


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 400)), max_size=30), st.integers(1, 6), st.integers(1, 500))
def test_batches_keep_the_order_split_no_item_and_stay_in_bounds(
    drawn: list[tuple[int, int]], most: int, size: int
) -> None:
    subject = link(most, size)
    items = [item(n, *[0] * parts, size=bytes_) for n, (parts, bytes_) in enumerate(drawn)]
    for i in items:
        subject.put(i)
    taken = []
    while len(subject):
        batch = subject.take()
        assert batch
        assert sum(len(i.parts) for i in batch[:-1]) < most
        assert sum(i.size for i in batch[:-1]) < size or len(batch) == 1
        taken += batch
    assert taken == items
    assert subject.queued_bytes == 0
    assert subject.idle


def test_a_refused_transaction_is_first_in_the_queue_again() -> None:
    subject = link(2)
    items = [item(n) for n in range(4)]
    for i in items:
        subject.put(i)
    batch = subject.take()
    send(subject, batch)
    assert subject.first_write is items[0]
    assert subject.unsend() == items[:2]
    assert subject.queued_bytes == 40 + 4 * ITEM_BYTES
    assert subject.take() + subject.take() == items


def test_one_transaction_is_in_flight_at_a_time_and_none_while_held_or_paused() -> None:
    subject = link()
    assert subject.free(0)
    send(subject, [item(1)])
    assert not subject.free(0)
    subject.landed()
    subject.held = True
    assert not subject.free(0)
    subject.held, subject.paused_until_ms = False, 50
    assert not subject.free(49)
    assert subject.free(50)


def test_after_what_wipes_come_the_tag_and_the_notes_again() -> None:
    wiping = Item("write", [(3, pack(b"FLUSHALL"))], 5, stream_clock(0, 1), wipes=True)
    note = pack(b"HSET", b"notes", b"f", b"v")
    flight = link().send([wiping, item(2, 3)], stream_clock(0, 1), TAG, lambda: [(0, note)])
    inside = words(flight.payload)[1:-4]
    assert inside[1:] == [
        [b"SELECT", b"3"],
        [b"FLUSHALL"],
        [b"SELECT", b"0"],
        [b"SET", KEY, TAG.encode()],
        [b"HSET", b"notes", b"f", b"v"],
        [b"SELECT", b"3"],
        [b"SET", b"k2", b"3"],
    ]
    assert flight.replies_of(1, inside) == inside[-2:]


@given(st.lists(st.lists(st.integers(0, 2), max_size=5), max_size=5), st.sets(st.integers(0, 4)))
def test_each_part_has_its_own_reply_wherever_a_database_is_selected(databases: list[list[int]], w: set[int]) -> None:
    items = [
        Item("write", [(d, pack(b"%d.%d" % (n, at))) for at, d in enumerate(ds)], 1, wipes=n in w)
        for n, ds in enumerate(databases)
    ]
    flight = link().send(items, stream_clock(0, 1), TAG, lambda: [(1, pack(b"a note")), (0, pack(b"another"))])
    results = [words[0] for words in words(flight.payload)[1:-4]]  # every command stands for its reply
    for n, ds in enumerate(databases):
        assert flight.answers(n, results) == [b"%d.%d" % (n, at) for at in range(len(ds))]


def test_the_oldest_write_that_is_not_applied_is_known() -> None:
    subject = link()
    assert subject.first_write is None
    subject.put(Item("fence", [], 0, number=1))
    assert subject.first_write is None
    subject.put(item(5))
    assert subject.first_write is not None
    assert subject.first_write.resume == (5, 0)


def test_a_summary_is_short_and_readable() -> None:
    assert item(1, 0, 2).summary() == "SET k1 0; SET k1 2"
    assert len(Item("write", [(0, pack(b"SET", b"k", b"v" * 10_000))], 1).summary()) <= 200


@pytest.mark.parametrize("kind", ["write", "copied", "beat"])
def test_an_item_is_itself(kind: str) -> None:
    assert Item(kind, [], 0) != Item(kind, [], 0)


def test_each_command_of_an_item_counts_for_the_memory_that_it_takes() -> None:
    parts = [(0, pack(b"SET", b"k%d" % n, b"v")) for n in range(5)]
    subject = link()
    subject.put(Item("write", parts, 40))
    assert subject.queued_bytes == 40 + ITEM_BYTES + 4 * PART_BYTES
    subject.take()
    assert subject.queued_bytes == 0


def test_what_was_applied_is_forgotten_also_where_a_rounds_items_stand_first() -> None:
    subject = link()
    fence, writes = Item("fence", [], 7, number=1), [item(n) for n in range(3)]
    for i in (fence, *writes):
        subject.put(i)
    assert writes[1].clock is not None
    subject.forget(writes[1].clock)
    assert subject.take() == [fence, writes[2]]
    assert subject.queued_bytes == 0
