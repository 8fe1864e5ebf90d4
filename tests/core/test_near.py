"""What it costs to compare a write with thousands of pending ones on the same key."""

from collections.abc import Callable, Iterator

import pytest

from bisync.core import detection, near, unit
from bisync.core.arbitration import Arbiter
from bisync.core.commands import commuting
from bisync.core.near import FEW, Near
from bisync.core.pending import Pending
from bisync.core.position import stream_clock
from tests.core.writes import Meeting, at_us, operation, write

PENDING = 5_000
"""So many wait at each site, on one key."""

STEPS_PER_WRITE = 20
"""Calls of `interchangeable`, looks at groups, steps of arbitrations, for each write: no more, whatever is pending."""

SOON_MS = 2_900_000_000_000
MIXED = ["SET k {i}", "APPEND k x", "INCR k", "DEL k", "HSET k f {i}", "SADD k m{i}", "LPUSH k {i}", "PEXPIREAT k {t}"]

# what east writes, what west writes (numbered), how many records the log gets, how many arbitrations are open
CASES: dict[str, tuple[list[str], list[str], int, int]] = {
    "counters": (["INCR k"], ["INCRBY k 2"], 0, 0),
    "different values": (["SET k a{i}"], ["SET k b{i}"], 1, 1),
    "equal values": (["SET k v"], ["SET k v"], 0, 0),
    "different fields": (["HSET k a{i} v"], ["HSET k b{i} v"], 0, 0),
    "one field": (["HSET k f a{i}"], ["HSET k f b{i}"], 1, 1),
    "counted fields": (["HINCRBY k f 1"], ["HINCRBY k f 2"], 0, 0),
    "equal members": (["SADD k m{i}"], ["SADD k m{i}"], 0, 0),
    "one end of a list": (["LPUSH k a{i}"], ["LPUSH k b{i}"], 1, 1),
    "two ends of a list": (["LPUSH k a{i}"], ["RPUSH k b{i}"], 0, 0),
    "bits": (["SETBIT k {i} 1"], ["SETBIT k {i} 0"], 1, 1),
    "bits apart": (["SETBIT k 1{i} 1"], ["SETBIT k 2{i} 0"], 0, 0),
    "one score": (["ZADD k {i} m"], ["ZADD k 1{i} m"], 1, 1),
    "fields and their removal": (["HSET k a{i} v"], ["HDEL k b{i}"], 0, 1),
    "times to live and fields": (["PEXPIREAT k {t}"], ["HSET k f{i} v"], 0, 0),
    "times to live": (["PEXPIREAT k {t}"], ["PEXPIREAT k 9{t}"], 1, 1),
    "times to live and removals": (["PEXPIREAT k {t}"], ["HDEL k f{i}"], 1, 1),
    "deletes and values": (["DEL k"], ["SET k {i}"], 1, 1),
    "deletes and times to live": (["DEL k"], ["PEXPIREAT k {t}"], 1, 1),
    "deletes and fields": (["DEL k"], ["HSET k f{i} v"], 1, 1),
    "appends": (["APPEND k a{i}"], ["APPEND k b{i}"], 1, 1),
    "appends and values": (["APPEND k a{i}"], ["SET k b{i}"], 1, 1),
    "two types": (["HSET k f{i} v"], ["SADD k m{i}"], 1, 1),
    "stream entries": (["XADD k {i}-1 f v"], ["XADD k {i}-2 f v"], 1, 1),
    "copies of the key": (["COPY k c{i} REPLACE"], ["COPY k d{i} REPLACE"], 0, 0),
    "items moved": (["LMOVE k o LEFT RIGHT"], ["LPUSH k a{i}"], 2, 2),
    "a second key that differs": (["MSET k v o a{i}"], ["MSET k v o b{i}"], 1, 1),
    "a mixture": (MIXED, MIXED, 1, 1),
}


class Counted:
    """Counts the calls of functions."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.n, self._patch = 0, patch

    def count(self, owner: object, name: str) -> None:
        """Count this one too."""
        self._patch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, function: Callable[..., object]) -> Callable[..., object]:
        def counted(*args: object, **named: object) -> object:
            self.n += 1
            return function(*args, **named)

        return counted


class Steps(Counted):
    """Counts what a comparison does."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(patch)
        for owner, name in (
            (detection, "interchangeable"),
            (near, "interchangeable"),
            (near, "_newest_concurrent"),
            (Near, "groups"),
            (Arbiter, "conflict"),
            (Arbiter, "arbitrate"),
        ):
            self.count(owner, name)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(monkeypatch)


def numbered(lines: list[str], seen: Callable[[int], int] = lambda n: 0, n: int = PENDING) -> Iterator[Pending]:
    """So many writes; `seen` says up to where the nth had seen the other site's."""
    for i in range(n):
        made = operation(lines[i % len(lines)].format(i=i, t=SOON_MS + i))
        yield Pending(stream_clock(0, 10 * (i + 1)), 10 * i, [made], stream_clock(0, seen(i)), at_us(i), 1)


def read_in_turn(meeting: Meeting, east: list[str], west: list[str], chunk: int = 100, n: int = PENDING) -> None:
    streams = {"east": numbered(east, n=n), "west": numbered(west, n=n)}
    for _ in range(0, n, chunk):
        for site, stream in streams.items():
            for _, mine in zip(range(chunk), stream):
                meeting.read(site, mine)


@pytest.mark.slow
@pytest.mark.parametrize(("east", "west", "records", "units"), CASES.values(), ids=CASES.keys())
def test_many_writes_against_many_pending_ones_cost_their_sum_and_not_their_product(
    east: list[str], west: list[str], records: int, units: int, steps: Steps
) -> None:
    meeting = Meeting()
    read_in_turn(meeting, east, west)
    assert steps.n <= STEPS_PER_WRITE * 2 * PENDING
    assert len(meeting.arbiter.take_told()) == meeting.arbiter.unrecorded == records
    assert len(meeting.arbiter) == units


@pytest.mark.slow
@pytest.mark.parametrize("east", [["SET k a{i}"], ["HSET k f a{i}"], ["LPUSH k a{i}"], MIXED])
def test_so_do_writes_that_are_read_again_while_the_other_site_is_far_ahead(east: list[str], steps: Steps) -> None:
    """After a restart one stream is read to its end first: much of it had seen what is read of the other after that."""
    meeting = Meeting()
    meeting.read_all("east", numbered(east, seen=lambda i: 1_000 * (i // 100)))
    meeting.read_all("west", numbered([line.replace("a{i}", "b{i}") for line in east]))
    assert steps.n <= STEPS_PER_WRITE * 2 * PENDING
    assert len(meeting.arbiter) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("east", "west"),
    [
        (["HSET k f{i} a"], ["HSET k f{i} b"]),
        (["ZADD k 1 m{i}"], ["ZADD k 2 m{i}"]),
        (["COPY k c{i} REPLACE"], ["SET k {i}"]),
        (["SUNIONSTORE d{i} k"], ["SADD k m{i}"]),
        (["COPY k c{i} REPLACE"], ["COPY k c{i} REPLACE"]),
    ],
)
def test_so_do_writes_that_leave_as_many_units_in_doubt(east: list[str], west: list[str], steps: Steps) -> None:
    meeting = Meeting()
    read_in_turn(meeting, east, west)
    assert steps.n <= STEPS_PER_WRITE * 2 * PENDING
    assert len(meeting.arbiter) == meeting.arbiter.unrecorded == PENDING


@pytest.mark.parametrize(
    ("long", "element", "short"),
    [
        ("MSET", "k{i} 1", "SET k{i} 2"),
        ("DEL", "k{i}", "SET k{i} 2"),
        ("HSET k", "f{i} 1", "HSET k f{i} 2"),
        ("ZADD k", "1 m{i}", "ZADD k 2 m{i}"),
        ("SREM k", "m{i}", "SADD k m{i}"),
        ("MSET", "k{i} 1", "MSET k{i} 2 l{i} 2"),
    ],
)
@pytest.mark.parametrize("first", ["long", "short"])
def test_one_command_with_thousands_of_places_meets_as_many_others_one_place_at_a_time(
    long: str, element: str, short: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, meeting, compared = 1_000, Meeting(), Counted(monkeypatch)
    compared.count(detection, "same_place")
    compared.count(unit, "same_place")
    compared.count(commuting, "row")
    site, other = ("east", "west") if first == "long" else ("west", "east")
    for turn in (first, "short" if first == "long" else "long"):
        if turn == "long":
            meeting.read(site, write(" ".join((long, *(element.format(i=i) for i in range(n)))), at=10))
        else:
            meeting.read_all(other, numbered([short], n=n))
    assert len(meeting.arbiter) == meeting.arbiter.unrecorded == n
    assert compared.n <= 30 * n


def test_each_write_is_met_once_so_that_the_newest_of_all_wins(steps: Steps) -> None:
    meeting = Meeting()
    read_in_turn(meeting, ["SET k a{i}"], ["SET k b{i}"], n=500)
    (told,) = meeting.arbiter.take_told()
    assert told.counts == {"east": 500, "west": 500}
    assert (told.winner, told.certain) == ("east", False), "the newest of both sites are of one time"


# -- coming and going
def test_what_was_seen_back_is_met_no_more_and_leaves_nothing_behind() -> None:
    subject = Near((0, b"k"))
    for n in range(1, 3 * FEW + 1):
        subject.add(held := (made := write(MIXED[n % 8].format(i=n, t=SOON_MS + n), at=10 * n), made.operations[0]))
        subject.groups(operation("DEL k"))
        assert held in subject.all
    later = write("SET k v", at=10)
    while len(subject) > 1:
        subject.drop()
        (everything,) = subject.groups(later.operations[0])
        assert len(everything.held) == len(subject)
    subject.drop()
    assert not list(everything.conflicts(later, later.operations[0]))
    assert not subject._elements
    assert not +subject._families


def test_elements_have_groups_of_their_own_as_long_as_all_are_of_one_type() -> None:
    subject = Near((0, b"k"))
    for n in range(1, 40):
        made = write(f"HSET k f{n} v", at=10 * n)
        subject.add((made, made.operations[0]))
    of_one_field = subject.groups(operation("HSET k f7 w"))
    assert sum(len(group.held) for group in of_one_field) == 1
    assert sum(len(group.held) for group in subject.groups(operation("SADD k m"))) == 39
    made = write("SADD k m", at=400)
    subject.add((made, made.operations[0]))
    assert sum(len(group.held) for group in subject.groups(operation("HSET k f7 w"))) == 40


def test_a_key_that_few_operations_touch_is_not_arranged() -> None:
    subject = Near((0, b"k"))
    for n in range(FEW):
        made = write("COPY k c", at=n + 1)
        subject.add((made, made.operations[0]))
    assert [held[0].start for held in subject.reading()] == list(range(1, FEW + 1))
    assert not subject._grouped


def test_many_commands_with_many_keys_each_meet_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, writes, meeting, compared = 200, 25, Meeting(), Counted(monkeypatch)
    compared.count(Arbiter, "conflict")
    for site in ("east", "west"):
        for n in range(writes):
            words = " ".join(f"k{key} {site}{n}" for key in range(keys))
            meeting.read(site, write(f"MSET {words}", at=10 * (n + 1)))
    assert len(meeting.arbiter) == keys
    assert compared.n <= keys * writes * writes, "of each pair, each key once"
