"""Both directions of a job against two simulated sites: what is promised holds, whatever happens and whenever.

How deep: BISYNC_HYPOTHESIS_PROFILE=deep runs twenty times as many histories as the default profile.
"""

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bisync.core.actions import Notice, Send
from bisync.core.copying import CopiedKeys
from bisync.core.delivery import RETRY_MS_MAX
from bisync.core.moment import Moment
from bisync.core.operation import CopiedOperations
from bisync.core.pair import Pair, Taken
from bisync.core.patterns import Scope
from bisync.core.position import Position
from bisync.core.resp import pack, select
from bisync.core.rules import Rules
from bisync.core.stream import Entry
from bisync.core.tag import Tag, open_key, tag_key
from bisync.errors import BisyncError, Superseded
from bisync.testing.clients import tags_held
from bisync.testing.history import SCOPES, Course, run_history
from bisync.testing.machine import TwoSites
from bisync.testing.pair import SimulatedPair
from bisync.testing.site import SimulatedSite
from bisync.testing.strategies import Command, adds, counters, keys, pushes

EXAMPLES = settings().max_examples  # of the profile
RULES = Rules("job", "east", "west", heartbeat_ms=0, target_not_empty="overwrite")
SITES = ("east", "west")
HOUR_MS = 3_600_000


class TestTwoSites(TwoSites.TestCase):
    """Anything at any moment."""

    settings = settings(max_examples=EXAMPLES, stateful_step_count=50)


class OneWay(TwoSites):
    """The same, where west is only followed."""

    job = attrs.evolve(RULES, bidirectional=False)


class TestOneWay(OneWay.TestCase):
    """What is written at east comes to west once."""

    settings = settings(max_examples=EXAMPLES // 4, stateful_step_count=50)


class Mapped(TwoSites):
    """The same, with databases that the sites number differently and keys that are chosen."""

    job = attrs.evolve(RULES, scope=SCOPES[-1])


class TestMapped(Mapped.TestCase):
    """What is within the scope is equal in the end, and nothing else comes over."""

    settings = settings(max_examples=EXAMPLES // 4, stateful_step_count=50)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_random_histories_of_all_kinds_of_jobs_keep_every_promise(part: int) -> None:
    for seed in range(part, 4 * EXAMPLES, 4):
        _, clients = run_history(seed)
        assert clients.broken() == [], f"run_history({seed})"


COURSES = {
    f"{'apart' if apart else 'same keys'}, crash {crash}, batch {batch}, {policy}": Course(
        attrs.evolve(RULES, batch_commands=batch, policy=policy), 60, crash, apart=apart
    )
    for apart in (True, False)
    for crash, batch, policy in [
        (0, 1, "last-writer"),
        (0.01, 3, "east"),
        (0.05, 1000, "last-writer"),
        (0.05, 1, "west"),
    ]
} | {
    "one-way": Course(attrs.evolve(RULES, bidirectional=False), 60, 0.05),
    "short queues": Course(attrs.evolve(RULES, queue_bytes=2_000), 60, 0.05),
    "sites that refuse": Course(RULES, 120, 0.01, refusals=0.03),
    "kills in the copy": Course(attrs.evolve(RULES, batch_commands=1), 80, 0.2),
}


@pytest.mark.parametrize("kind", COURSES.values(), ids=COURSES.keys())
def test_histories_of_one_kind_keep_every_promise(kind: Course) -> None:
    for seed in range(EXAMPLES // 3):
        _, clients = run_history(seed, kind)
        assert clients.broken() == [], f"run_history({seed}, {kind})"


# -- the promises, one at a time
def running(rules: Rules = RULES) -> SimulatedPair:
    """A pair whose full copy, of nothing, is finished."""
    pair = SimulatedPair(rules)
    pair.start()
    pair.drain()
    return pair


def value(pair: SimulatedPair, key: bytes, site: str = "east") -> object:
    """A key's value in database 0."""
    held = pair.dataset(site).get((0, key))
    return held[1] if held else None


@st.composite
def interleavings(draw: st.DrawFn, commands: st.SearchStrategy[Command]) -> list[tuple[str, Command | None]]:
    """Writes at both sites, with what the engine does meanwhile (None: it goes on one step)."""
    return draw(st.lists(st.tuples(st.sampled_from(SITES), st.one_of(st.none(), commands)), max_size=25))


def play(pair: SimulatedPair, events: list[tuple[str, Command | None]]) -> list[tuple[str, Command]]:
    """Run the events and drain; the writes among them."""
    for site, command in events:
        if command is not None:
            pair.write(site, command)
        else:
            pair.read(site, 40) or pair.deliver(site) or pair.answer(site)
    pair.drain()
    assert pair.equal, pair.differences()
    return [(site, command) for site, command in events if command is not None]


AMOUNTS = {b"INCR": lambda c: 1, b"DECR": lambda c: -1, b"INCRBY": lambda c: int(c[2]), b"DECRBY": lambda c: -int(c[2])}


@given(interleavings(counters(keys(1))))
def test_counters_add_up(events: list[tuple[str, Command | None]]) -> None:
    pair = running()
    done = play(pair, events)
    assert int(value(pair, b"k0") or 0) == sum(AMOUNTS[c[0]](c) for _, c in done)  # type: ignore[call-overload]
    assert not pair.log


@given(interleavings(pushes(keys(1))))
def test_what_was_pushed_is_neither_lost_nor_doubled(events: list[tuple[str, Command | None]]) -> None:
    pair = running()
    done = play(pair, events)
    held = value(pair, b"k0") or ()
    assert sorted(held) == sorted(item for _, c in done for item in c[2:])  # type: ignore[call-overload]


@given(interleavings(adds(keys(1))))
def test_adds_are_a_union_and_no_conflict(events: list[tuple[str, Command | None]]) -> None:
    pair = running()
    done = play(pair, events)
    assert (value(pair, b"k0") or frozenset()) == {item for _, c in done for item in c[2:]}
    assert not pair.log


def test_the_newest_write_stands() -> None:
    pair = running()
    for older, newer in (SITES, SITES[::-1]):
        pair.write(older, (b"SET", b"k", b"old"))
        pair.read(older, 1 << 16)
        pair.pass_time(5)
        pair.write(newer, (b"SET", b"k", b"new of " + newer.encode()))
        pair.drain()
        assert value(pair, b"k", "east") == value(pair, b"k", "west") == b"new of " + newer.encode()
    assert [c.winner for c in pair.log] == ["west", "east"]


@pytest.mark.parametrize("preferred", SITES)
def test_the_preferred_site_wins_whichever_write_is_newer(preferred: str) -> None:
    for order in (SITES, SITES[::-1]):
        pair = running(attrs.evolve(RULES, policy=preferred))
        for site in order:
            pair.write(site, (b"SET", b"k", site.encode()))
            pair.read(site, 1 << 16)
            pair.pass_time(5)
        pair.drain()
        assert value(pair, b"k", "east") == value(pair, b"k", "west") == preferred.encode()


def test_a_delete_loses_to_a_concurrent_update() -> None:
    for deleting, updating in (SITES, SITES[::-1]):
        pair = running()
        pair.write("east", (b"SET", b"k", b"first"))
        pair.drain()
        pair.write(updating, (b"SET", b"k", b"kept"))
        pair.read(updating, 1 << 16)
        pair.pass_time(5)
        pair.write(deleting, (b"DEL", b"k"))
        pair.drain()
        assert value(pair, b"k", "east") == value(pair, b"k", "west") == b"kept"


def test_writes_that_had_seen_each_other_are_no_conflict() -> None:
    pair = running()
    for number in range(6):
        pair.write(SITES[number % 2], (b"SET", b"k", b"%d" % number))
        pair.drain()
    assert not pair.log
    assert value(pair, b"k", "west") == b"5"


# -- the log of conflicts
def cross(pair: SimulatedPair, key: bytes = b"k") -> None:
    """Both sites write the key, and neither has seen the other's write."""
    for site in SITES:
        pair.write(site, (b"SET", key, site.encode()))


def go_on(pair: SimulatedPair, steps: int = 20) -> None:
    for _ in range(steps):
        for site in SITES:
            pair.read(site, 5000)
            pair.deliver(site)
            pair.answer(site)


def test_a_conflict_is_told_with_both_writes_and_settled_with_the_value_that_lost() -> None:
    pair = running()
    cross(pair)
    pair.read("east", 5000)
    pair.read("west", 5000)
    (told,) = pair.log
    assert (told.state, told.winner, told.rule, told.certain) == ("open", "west", "newest write", True)
    assert {(w.site, w.command) for w in told.writes} == {("east", b"SET k east"), ("west", b"SET k west")}
    pair.drain()
    (told,) = pair.log
    assert told.state == "settled"
    assert told.replaced is not None
    assert (told.replaced.site, told.replaced.kind) == ("west", "dump")
    assert told.replaced.value is not None
    assert b"east" in told.replaced.value
    assert told.kept


def test_a_conflict_that_the_log_does_not_have_yet_is_found_again_after_a_kill_and_not_told_twice() -> None:
    pair = running()
    pair.flushing = False
    cross(pair)
    go_on(pair)
    assert pair.equal
    assert pair.pair is not None
    assert (len(pair.pair.arbiter), pair.pair.arbiter.unrecorded, len(pair.log)) == (0, 1, 0)
    pair.kill()
    pair.start()
    pair.drain()
    assert [told.counts for told in pair.log] == [{"east": 1, "west": 1}]
    pair.kill()
    pair.start()
    pair.drain()
    assert len(pair.log) == 1


def test_floors_wait_for_the_log_and_for_nothing_else() -> None:
    pair = running()
    pair.flushing = False
    first = {site: pair.sites[site].offset for site in SITES}
    cross(pair)
    go_on(pair)
    for number in range(20):
        pair.write(SITES[number % 2], (b"SET", b"of %s" % SITES[number % 2].encode(), b"v"))
        go_on(pair, 3)
    for site, offset in first.items():
        assert tags_held(pair)["forward"].floors[site].offset <= offset + 30
    pair.flush()
    pair.write("east", (b"SET", b"of east", b"v"))
    go_on(pair, 3)
    for site, offset in first.items():
        assert tags_held(pair)["forward"].floors[site].offset > offset + 30


def test_reading_stops_while_too_many_conflicts_wait_for_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bisync.core.pair.UNRECORDED_MAX", 3)
    pair = running()
    pair.flushing = False
    for number in range(10):
        cross(pair, b"k%d" % number)
        go_on(pair, 3)
    assert pair.pair is not None
    assert pair.pair.arbiter.unrecorded == 3
    assert not pair.pair.wants("east")
    pair.drain()
    assert len(pair.log) == 10


def test_a_key_has_the_policy_of_the_first_pattern_that_it_matches() -> None:
    pair = running(attrs.evolve(RULES, policies=(((b"e:*",), "east"), ((b"?:*",), "west"))))
    for key in (b"e:1", b"x:1", b"other"):
        for site in ("west", "east"):
            pair.write(site, (b"SET", key, site.encode()))
    pair.drain()
    assert pair.equal
    assert [value(pair, key) for key in (b"e:1", b"x:1", b"other")] == [b"east", b"west", b"east"]
    assert {told.key: told.policy for told in pair.log} == {
        b"e:1": "prefer:east",
        b"x:1": "prefer:west",
        b"other": "last-writer",
    }


def test_where_the_times_overlap_the_likelier_one_wins_and_the_log_says_that_it_is_not_certain() -> None:
    pair = running()
    pair.moment = lambda us: Moment(us - 1000, us + 1000)
    cross(pair)
    pair.drain()
    (told,) = pair.log
    assert (told.winner, told.certain) == ("west", False)
    assert value(pair, b"k", "east") == b"west"
    assert all(0 < w.latest_us - w.earliest_us <= 2000 for w in told.writes)


# -- nothing is sent back
def commands_of(entries: list[Entry], *, foreign: bool) -> list[tuple[int, list[bytes]]]:
    """The commands of clients or of the engine in a stream, without what is bisync's own."""
    return [
        (c.database, c.args)
        for entry in entries
        if (entry.tag is not None) is foreign
        for c in entry.commands
        if not c.args[1].startswith(b"bisync:")
    ]


@given(st.lists(st.tuples(st.sampled_from([*SITES, "kill", "go"]), st.integers(0, 1)), max_size=40))
def test_each_site_does_what_the_other_sites_clients_did_once_and_in_order(events: list[tuple[str, int]]) -> None:
    """On keys apart, the foreign writes of one stream are the client writes of the other: none lost or sent back."""
    pair = running()
    written = 0
    for event, database in events:
        if event == "kill":
            pair.kill()
            pair.start()
        elif event == "go":
            for x in SITES:
                pair.read(x, 50)
                pair.deliver(x)
                pair.answer(x)
        else:
            pair.write(event, (b"RPUSH", b"of %s" % event.encode(), b"%d" % written), database=database)
            written += 1
    pair.drain()
    east, west = pair.entries("east"), pair.entries("west")
    assert commands_of(west, foreign=True) == commands_of(east, foreign=False)
    assert commands_of(east, foreign=True) == commands_of(west, foreign=False)
    assert len(commands_of(east, foreign=False) + commands_of(west, foreign=False)) == written
    assert not pair.log


def test_bytes_that_a_killed_engine_left_behind_change_nothing() -> None:
    pair = running()
    pair.write("east", (b"RPUSH", b"k", b"1"))
    pair.read("east", 1 << 16)  # sent, and executed by nobody yet
    pair.kill()
    pair.start()
    for _ in range(20):
        for x in SITES:
            pair.read(x, 1 << 16)
            pair.deliver(x)
            pair.answer(x)
    assert value(pair, b"k", "west") == (b"1",)
    before = bytes(pair.sites["west"].stream)
    assert pair.orphan()
    assert bytes(pair.sites["west"].stream) == before


def test_what_was_in_flight_when_the_engine_died_is_applied_once_if_it_arrives_before_the_next_engine() -> None:
    pair = running()
    pair.write("east", (b"RPUSH", b"k", b"1"))
    pair.read("east", 1 << 16)
    pair.kill()
    assert pair.orphan()
    assert value(pair, b"k", "west") == (b"1",)
    pair.start()
    pair.drain()
    assert value(pair, b"k", "west") == value(pair, b"k", "east") == (b"1",)


def test_half_a_transaction_of_a_killed_engine_changes_nothing() -> None:
    pair = running()
    pair.write("east", (b"RPUSH", b"k", b"1"), (b"RPUSH", b"k", b"2"))
    pair.read("east", 1 << 16)
    pair.kill()
    pair.orphan(300)
    assert value(pair, b"k", "west") is None
    pair.start()
    pair.drain()
    assert value(pair, b"k", "west") == (b"1", b"2")


# -- a quiet pair
def sizes(pair: SimulatedPair) -> list[int]:
    """How long the streams are, in bytes."""
    return [site.offset for site in pair.sites.values()]


@pytest.mark.parametrize("bidirectional", [True, False])
def test_an_idle_pair_stays_quiet(bidirectional: bool) -> None:
    pair = running(attrs.evolve(RULES, bidirectional=bidirectional))
    pair.write("east", (b"SET", b"k", b"v"))
    pair.drain()
    for _ in range(3):  # what is left to be told is told
        pair.pass_time(20_000)
        pair.drain()
    before = sizes(pair)
    for _ in range(200):
        pair.pass_time(HOUR_MS // 20)
        pair.drain()
    assert sizes(pair) == before


def test_heartbeats_are_never_answered() -> None:
    pair = running(attrs.evolve(RULES, heartbeat_ms=1000))
    pair.drain()
    grown = []
    for _ in range(200):
        before = sizes(pair)
        pair.pass_time(1000)
        pair.drain()
        grown.append(tuple(b - a for a, b in zip(before, sizes(pair), strict=True)))
    assert max(map(max, grown)) < 700  # one beat and its tag
    assert not commands_of(pair.entries("east"), foreign=False) + commands_of(pair.entries("west"), foreign=False)


def test_floors_follow_the_writing_so_that_little_is_read_again() -> None:
    pair = running()
    for number in range(200):
        pair.write(SITES[number % 2], (b"SET", b"k%d" % (number % 2), b"v" * 50))
        pair.drain()
    floors = tags_held(pair)["forward"].floors
    for name, site in pair.sites.items():
        assert site.offset > 10_000
        assert site.offset - floors[name].offset < 2_000


def test_a_new_engine_reads_from_the_floors_and_sends_nothing_again() -> None:
    pair = running()
    for number in range(50):
        pair.write(SITES[number % 2], (b"RPUSH", b"k%d" % (number % 2), b"v"))
    pair.drain()
    pair.kill()
    floors = tags_held(pair)["forward"].floors
    for name, site in pair.sites.items():
        site.forget(floors[name].offset)  # a backlog that holds no more than it must
    pair.start()
    pair.drain()
    assert pair.equal
    assert value(pair, b"k0") == (b"v",) * 25


# -- another engine
def second_engine(pair: SimulatedPair) -> SimulatedPair:
    other = SimulatedPair(pair.rules, sites=pair.sites, engine="other")
    other.start()
    return other


def test_a_superseded_engine_stops_and_what_it_sent_is_not_applied() -> None:
    first = running()
    first.write("east", (b"RPUSH", b"k", b"1"))
    first.read("east", 1 << 16)
    other = second_engine(first)
    first.deliver("east")
    assert value(first, b"k", "west") is None
    first.answer("east")
    assert first.pair is None
    assert isinstance(first.superseded, Superseded)
    assert "other1" in str(first.superseded)
    other.drain()
    assert value(first, b"k", "west") == (b"1",)


def test_an_engine_with_nothing_to_write_notices_too_that_it_was_superseded() -> None:
    first = running()
    second_engine(first)
    assert first.pair is not None
    held = tags_held(first)["forward"].encode()
    with pytest.raises(Superseded):
        first.pair.tag_read("east", held)


def test_an_engine_whose_connection_broke_does_not_take_the_job_back() -> None:
    first = running()
    second_engine(first)
    assert not first.reconnect()
    assert isinstance(first.superseded, Superseded)


# -- tags that go away
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("wiping", [(b"FLUSHALL",), (b"FLUSHDB",), (b"SWAPDB", b"0", b"1")])
def test_a_flush_or_swap_by_a_client_is_copied_and_the_job_goes_on(site: str, wiping: Command) -> None:
    pair = wiping_pair()
    pair.write(site, (b"SET", b"before", b"1"))
    pair.drain()
    pair.write(site, wiping)
    pair.drain()
    for name in SITES:
        pair.write(name, (b"SET", b"after " + name.encode(), b"1"))
    pair.drain()
    assert pair.equal
    assert (0, b"before") not in pair.dataset("west")
    assert {b"after east", b"after west"} <= {key for _, key in pair.dataset("west")}
    assert set(tags_held(pair)) == {"forward", "reverse"}


def wiping_pair() -> SimulatedPair:
    """A pair whose simulated site knows the commands that wipe; skips the test where it does not."""
    pair = running()
    if isinstance(pair.write("east", (b"FLUSHDB",))[0], Exception):
        pytest.skip("the simulated site knows no FLUSHDB")
    pair.drain()
    return pair


def test_a_tag_that_somebody_deleted_is_written_again_and_nothing_is_doubled() -> None:
    pair = running()
    pair.write("east", (b"RPUSH", b"k", b"1"))
    pair.drain()
    lives = pair.lives
    pair.write("west", (b"DEL", tag_key("job", "forward")))
    pair.write("east", (b"RPUSH", b"k", b"2"))
    pair.drain()
    assert pair.lives > lives
    assert value(pair, b"k", "east") == value(pair, b"k", "west") == (b"1", b"2")


def test_a_tag_that_was_put_back_to_an_older_one_doubles_nothing() -> None:
    pair = running()
    key = tag_key("job", "forward")
    (old,) = pair.write("west", (b"GET", key))
    assert isinstance(old, bytes)
    pair.write("east", (b"RPUSH", b"k", b"1"))
    pair.drain()
    pair.write("west", (b"SET", key, old))
    pair.write("east", (b"RPUSH", b"k", b"2"))
    pair.drain()
    assert value(pair, b"k", "east") == value(pair, b"k", "west") == (b"1", b"2")


def test_epochs_do_not_come_again_though_both_tags_went_before_the_store_had_a_copy_of_them() -> None:
    """Two engines that have one epoch would give two full copies, or two conflicts, the same number."""
    pair = running()
    for _ in range(3):
        pair.start_and_die()  # no store has heard of these
    newest = max(tag.epoch for tag in tags_held(pair).values())
    for name in SITES:
        pair.write(name, (b"FLUSHALL",))
        pair.write(name, (b"SET", name.encode(), b"v"))
    pair.start()
    pair.drain()
    assert {tag.epoch > newest for tag in tags_held(pair).values()} == {True}
    assert pair.equal
    assert set(pair.dataset("west")) == {(0, b"east"), (0, b"west")}


# -- sites that refuse
def test_a_site_that_is_out_of_memory_gets_its_writes_later_once() -> None:
    pair = running()
    pair.sites["west"].refuse = b"-OOM command not allowed when used memory > 'maxmemory'."
    pair.write("east", (b"RPUSH", b"k", b"1"))
    for _ in range(5):
        pair.read("east", 1 << 16)
        pair.deliver("east")
        pair.answer("east")
        pair.pass_time(RETRY_MS_MAX)
    assert [n.kind for n in pair.notices if n.level == "warning"] == ["refused"]
    assert value(pair, b"k", "west") is None
    pair.sites["west"].refuse = None
    pair.drain()
    assert value(pair, b"k", "west") == (b"1",)
    assert pair.notices[-1] == Notice("info", "accepted", "west takes writes again")


def test_what_a_site_refuses_for_good_stops_the_job_with_the_reason() -> None:
    pair = running()
    pair.write("east", (b"SET", b"k", b"v"))
    pair.sites["west"].refuse = b"-NOPERM this user has no permissions to run the 'set' command"
    with pytest.raises(BisyncError, match="NOPERM"):
        pair.drain()
    assert value(pair, b"k", "west") is None


def test_a_command_that_fails_alone_settles_its_keys_from_where_it_came() -> None:
    """A command fails at the other site only where the keys are unequal: here something else was at work."""
    pair = running()
    pair.write("east", (b"RPUSH", b"k", b"1"))
    pair.drain()
    pair.sites["west"].connect().execute(pack(b"SET", b"k", b"wrong"))
    pair.kill()
    _forget_last(pair.sites["west"])
    pair.start()
    pair.drain()
    pair.write("east", (b"RPUSH", b"k", b"2"))
    pair.drain()
    assert value(pair, b"k", "east") == value(pair, b"k", "west") == (b"1", b"2")


def _forget_last(site: SimulatedSite) -> None:
    """Take the last command out of a stream, as if the data had been changed without it."""
    lost = pack(b"SET", b"k", b"wrong")
    assert site.stream.endswith(lost)
    del site.stream[-len(lost) :]


@pytest.mark.parametrize(
    ("before", "move"),
    [
        ((b"RPUSH", b"from", b"1", b"2"), (b"LMOVE", b"from", b"to", b"LEFT", b"RIGHT")),
        ((b"RPUSH", b"from", b"1", b"2"), (b"RPOPLPUSH", b"from", b"to")),
        ((b"SADD", b"from", b"1", b"2"), (b"SMOVE", b"from", b"to", b"1")),
    ],
)
def test_a_move_that_cannot_take_place_at_the_other_site_settles_where_it_came_from_too(
    before: Command, move: Command
) -> None:
    pair = SimulatedPair(RULES)
    pair.write("east", before)
    pair.start()
    pair.drain()
    pair.write("east", (b"SET", b"to", b"of another type"))
    pair.write("west", move)
    pair.drain()
    assert pair.equal, pair.differences()


# -- the full copy
def test_the_number_of_the_finished_copy_is_known_from_either_tag() -> None:
    """The writes of the source are told apart from those that a copy holds by it."""
    forward, reverse = Tag("job", 9, "e", (7, 1, 500), copied=7), Tag("job", 9, "e", (0, 1, 90), copied=7)
    for tags in ({"forward": forward, "reverse": reverse}, {"reverse": reverse}, {"forward": forward}):
        copying = Pair(RULES, 10, "e2", Taken(tags)).copying
        assert (copying.copy, copying.finished, copying.again) == (7, True, False)


def test_a_copy_that_broke_off_is_known_and_the_next_has_a_higher_number() -> None:
    broken = Tag("job", 9, "e", (7, 0, 30))
    copying = Pair(RULES, 10, "e2", Taken({"forward": broken})).copying
    assert (copying.copy, copying.finished, copying.again) == (7, False, True)
    copying.begin(10)
    assert copying.copy == 10


@pytest.mark.parametrize("rules", [RULES, attrs.evolve(RULES, bidirectional=False)], ids=["both ways", "one-way"])
def test_the_full_copy_replaces_what_the_target_held(rules: Rules) -> None:
    pair = SimulatedPair(rules)
    pair.write("east", (b"RPUSH", b"both", b"east"))
    pair.write("east", (b"SET", b"k", b"v", b"PXAT", b"1900000000000"))
    pair.write("west", (b"SET", b"both", b"west"))
    pair.write("west", (b"SET", b"stale", b"1"))
    pair.start()
    pair.drain()
    assert pair.equal
    assert set(pair.dataset("west")) == {(0, b"both"), (0, b"k")}


def test_a_copy_that_broke_off_leaves_nothing_stale_and_nothing_doubled() -> None:
    pair = SimulatedPair(attrs.evolve(RULES, batch_commands=1))
    for number in range(6):
        pair.write("east", (b"RPUSH", b"k%d" % number, b"x"))
    pair.start()
    while len(pair.dataset("west")) < 3:
        for x in SITES:
            pair.read(x, 50)
            pair.deliver(x)
            pair.answer(x)
    pair.kill()
    pair.write("east", (b"DEL", b"k0", b"k1", b"k2"))
    pair.drain()
    assert pair.equal
    assert set(pair.dataset("west")) == {(0, b"k3"), (0, b"k4"), (0, b"k5")}
    assert value(pair, b"k3", "west") == (b"x",)


def test_databases_and_keys_outside_the_scope_are_left_alone() -> None:
    rules = attrs.evolve(RULES, scope=Scope(databases={0: 0, 1: 3}, exclude=(b"tmp:*",)))
    pair = SimulatedPair(rules)
    pair.write("east", (b"SET", b"one", b"1"), database=1)
    pair.write("east", (b"SET", b"tmp:1", b"1"))
    pair.write("west", (b"SET", b"tmp:2", b"2"))
    pair.write("west", (b"SET", b"other", b"2"), database=1)
    pair.start()
    pair.drain()
    pair.write("west", (b"SET", b"three", b"3"), database=3)
    pair.write("east", (b"MSET", b"tmp:3", b"3", b"in", b"4"))
    pair.drain()
    assert pair.equal
    assert {k for k in pair.sites["west"].dataset()} == {
        (3, b"one"),
        (0, b"tmp:2"),
        (1, b"other"),
        (3, b"three"),
        (0, b"in"),
    }


def test_a_pair_is_drained_when_all_that_was_read_is_applied() -> None:
    pair = running()
    pair.write("east", (b"SET", b"k", b"v"))
    assert pair.pair is not None
    assert pair.pair.drained("east") < pair.sites["east"].offset
    pair.drain()
    assert pair.pair.drained("east") == pair.sites["east"].offset


def test_what_is_read_while_a_transaction_is_under_way_goes_as_one() -> None:
    pair = running()
    for number in range(20):
        pair.write("east", (b"SET", b"k%d" % number, b"v"))
        pair.read("east", 1 << 16)
    sent = pair.pair and sum(len(c.link) for c in pair.pair.channels.values())
    assert sent == 19
    pair.deliver("east")
    pair.answer("east")
    assert pair.pair is not None and len(pair.pair.channels["east"].link) == 0
    assert not [a for a in pair.pair.take_actions() if isinstance(a, Send)], "all of it is in flight as one"


def test_notes_are_gone_when_all_is_settled() -> None:
    pair = running()
    for site in SITES:
        pair.write(site, (b"SET", b"k", site.encode()))
    pair.drain()
    assert pair.log
    for site in SITES:
        assert pair.write(site, (b"EXISTS", open_key("job"))) == [0]


def test_a_hot_key_with_many_writes_at_both_sites_is_one_conflict() -> None:
    pair = running()
    for number in range(100):
        for site in SITES:
            pair.write(site, (b"SET", b"k", b"%d of %s" % (number, site.encode())))
    pair.drain()
    assert pair.equal
    assert len(pair.log) == 1


def test_a_copy_is_finished_though_the_target_has_more_pending_than_its_bound() -> None:
    pair = SimulatedPair(attrs.evolve(RULES, pending_bytes=5_000))
    pair.write("east", (b"SET", b"k", b"v"))
    pair.start()
    for number in range(20):
        pair.write("west", (b"SET", b"w%d" % number, b"v"))
    pair.drain()
    assert pair.equal


def test_a_repeated_copy_loses_no_write_of_the_target_where_the_source_is_preferred() -> None:
    pair = SimulatedPair(attrs.evolve(RULES, policy="east"))
    pair.write("east", (b"SET", b"k", b"v"))
    pair.start()
    while not any(t.floors for t in tags_held(pair).values()):
        pair.read("east", 60)
        pair.deliver("east")
    pair.write("west", (b"RPUSH", b"w", b"1"))
    pair.kill()
    pair.start()
    pair.drain()
    assert value(pair, b"w", "west") == value(pair, b"w", "east") == (b"1",)


def test_a_job_that_refuses_removes_nothing_that_the_target_got_before_the_first_copy() -> None:
    pair = SimulatedPair(attrs.evolve(RULES, target_not_empty="refuse"))
    pair.write("east", (b"SET", b"k", b"v"))
    pair.start()
    pair.write("west", (b"RPUSH", b"early", b"1"))
    pair.kill()  # before a tag could say from where the target's stream is to be read
    pair.write("west", (b"RPUSH", b"early", b"2"))
    pair.start()
    pair.drain()
    assert value(pair, b"early", "west") == value(pair, b"early", "east") == (b"1", b"2")


@pytest.mark.parametrize("sites", [("east",), ("west",), SITES])
def test_an_engine_goes_on_though_more_was_written_meanwhile_than_may_be_pending(sites: tuple[str, ...]) -> None:
    """It reads before it sends; but what may be pending is bounded, and only sending makes room."""
    pair = SimulatedPair(attrs.evolve(RULES, pending_bytes=5_000))
    pair.start()
    pair.drain()
    pair.kill()
    for number in range(100):
        for site in sites:
            pair.write(site, (b"SET", b"%d of %s" % (number, site.encode()), b"v" * 3_000))
    pair.start()
    pair.drain()
    assert pair.equal
    assert len(pair.dataset("west")) == 100 * len(sites)


def copying_core() -> Pair:
    """West is followed, and east's snapshot was taken."""
    core = Pair(RULES, 1, "engine", Taken({}))
    core.attach("west", Position("w" * 40, 0))
    core.snapshot_taken(Position("e" * 40, 0))
    return core


def copied_keys(*names: bytes) -> CopiedKeys:
    many = CopiedKeys()
    for name in names:
        many.add(0, name, False, (0, pack(b"SET", name, b"v")))
    return many


def test_copied_keys_that_meet_no_write_become_no_operations() -> None:
    core = copying_core()
    core.receive("west", select(0) + pack(b"SET", b"other", b"w"), 0)
    core.copied([copied_keys(b"k1", b"k2")], 0)
    pending = core.channels["east"].pending
    assert pending.oldest is not None and isinstance(pending.oldest.operations, CopiedOperations)
    assert pending.oldest.operations._made is None and not len(core.arbiter)
    core.receive("west", pack(b"SET", b"k1", b"w"), 0)  # meets one of them
    assert pending.oldest.operations._made is not None and len(core.arbiter) == 1


@pytest.mark.parametrize("write", [pack(b"SET", b"k2", b"w"), pack(b"RENAME", b"k2", b"other")], ids=["one", "two"])
def test_copied_keys_meet_what_the_target_wrote_before(write: bytes) -> None:
    core = copying_core()
    core.receive("west", select(0) + write, 0)
    core.copied([copied_keys(b"k1", b"k2", b"k3")], 0)
    assert len(core.arbiter)
