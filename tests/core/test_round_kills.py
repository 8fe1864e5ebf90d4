"""An engine that is killed at every single step of settling a conflict: equal sites, and each conflict in the log once.

Each scenario is a conflict over one kind of unit. It is played in several orders, one step at a time: one entry of a
stream is read, a server executes what was sent, replies are read, the log is written. Then it is played again with the
engine killed after the first step, after the second, and so on; what it had sent is lost, or arrives before or after
the next engine takes the job, or the same engine begins another life.

**What a kill can cost** is the loser's value in the log, and nothing else. The restore reads what it replaces, so that
value is known to the engine from the reply on, and to the log when it is written next. An engine that is killed after
its restore was executed and before that finds equal values in its next life. The conflict, its writes and its winner
are on record all the same. `Play.window` is this stretch, and the tests demand the value outside of it.
"""

import hashlib
import random
import sqlite3
from collections.abc import Callable, Sequence

import attrs
import hiredis
import pytest

from bisync.core.rules import Rules
from bisync.core.tag import open_key
from bisync.runtime.conflict_record import ConflictRecord, Told
from bisync.runtime.conflict_table import SCHEMA, SERVERS, ConflictTable
from bisync.testing.pair import SimulatedPair
from bisync.testing.strategies import Command

RULES = Rules("job", "east", "west", heartbeat_ms=0, target_not_empty="overwrite", checkpoint_every_ms=1 << 40)
ORDERS = range(4)
STEPS_MAX = 600  # of a scenario; most have a hundred
Write = tuple[str, Command]
Unit = tuple[bytes, tuple[str, bytes] | None]


@attrs.frozen
class Scenario:
    """Writes that the sites made before they saw each other's; units that must be in the log, and those that may."""

    before: Sequence[Write]
    writes: Sequence[Write]
    units: frozenset[Unit]
    later: Sequence[Write] = ()  # made as soon as a fence is under way
    may_be: frozenset[Unit] = frozenset()
    keeps: bool = True  # does a restore replace a value?
    exact: bool = True  # are the verdict and that value the same, whenever the engine reads what?


def _whole(key: bytes) -> Unit:
    return key, None


E, W = "east", "west"
SCENARIOS = {
    "a string": Scenario((), [(E, (b"SET", b"k", b"old")), (W, (b"SET", b"k", b"new"))], frozenset({_whole(b"k")})),
    "a string whose older write is at the second site": Scenario(
        (), [(W, (b"SET", b"k", b"old")), (E, (b"SET", b"k", b"new"))], frozenset({_whole(b"k")})
    ),
    "pushes": Scenario(
        [(E, (b"RPUSH", b"l", b"0"))],
        [(E, (b"RPUSH", b"l", b"a")), (W, (b"RPUSH", b"l", b"b")), (W, (b"RPUSH", b"l", b"c"))],
        frozenset({_whole(b"l")}),
        exact=False,  # one push may come while the others are settled
    ),
    "a delete and an update": Scenario(
        [(E, (b"SET", b"k", b"first"))],
        [(E, (b"SET", b"k", b"updated")), (W, (b"DEL", b"k"))],
        frozenset({_whole(b"k")}),
        keeps=False,  # nothing stood there
    ),
    "a field of a hash": Scenario(
        [(E, (b"HSET", b"h", b"g", b"0"))],
        [(E, (b"HSET", b"h", b"f", b"old")), (W, (b"HSET", b"h", b"f", b"new"))],
        frozenset({(b"h", ("hash", b"f"))}),
    ),
    "a member of a set": Scenario(
        [(E, (b"SADD", b"s", b"m", b"n"))],
        [(W, (b"SREM", b"s", b"m")), (E, (b"SREM", b"s", b"m")), (E, (b"SADD", b"s", b"m"))],
        frozenset({(b"s", ("set", b"m"))}),
        keeps=False,
    ),
    "a member of a sorted set": Scenario(
        [(E, (b"ZADD", b"z", b"0", b"n"))],
        [(E, (b"ZADD", b"z", b"1", b"m")), (W, (b"ZADD", b"z", b"2", b"m"))],
        frozenset({(b"z", ("zset", b"m"))}),
    ),
    "a time to live": Scenario(
        [(E, (b"SET", b"k", b"v"))],
        [(E, (b"PEXPIREAT", b"k", b"4100000000000")), (W, (b"PEXPIREAT", b"k", b"4000000000000"))],
        frozenset({(b"k", ("ttl", b""))}),
    ),
    "a field, and then the whole key": Scenario(
        [(E, (b"HSET", b"h", b"g", b"0")), (E, (b"HSET", b"other", b"o", b"1"))],
        [(E, (b"HSET", b"h", b"f", b"old")), (W, (b"HSET", b"h", b"f", b"new"))],
        frozenset({_whole(b"h")}),
        later=[(E, (b"RENAME", b"other", b"h")), (W, (b"HSET", b"h", b"f", b"newer"))],
        may_be=frozenset({(b"h", ("hash", b"f"))}),
        exact=False,
    ),
    "a write that the restore overtakes": Scenario(
        (),
        [(E, (b"SET", b"k", b"old")), (W, (b"SET", b"k", b"new"))],
        frozenset({_whole(b"k")}),
        later=[(W, (b"APPEND", b"k", b" and more"))],
        exact=False,
    ),
}


class Play(SimulatedPair):
    """A pair with the program's own log of conflicts, which is written only when a step says so."""

    def __init__(self, scenario: Scenario, order: int) -> None:
        super().__init__(RULES)
        self._db = sqlite3.connect(":memory:", isolation_level=None)
        for statement in (*SCHEMA, *SERVERS):
            self._db.execute(statement)
        self.table = ConflictTable(lambda sql, *values: self._db.execute(sql, values).fetchall(), self._transaction)
        self.scenario, self.chance = scenario, random.Random(f"order {order}")
        self.lazy = order % 2 == 1  # is the log written only when nothing else can happen?
        self.told: list[Told] = []  # not in the log yet
        self.steps = 0
        self.restored = False  # was a restore executed, of which the log does not know the outcome yet?
        self.window = False  # was an engine killed then?
        self.ours: set[str] = set()  # digests of the values that restores put in place
        self.left = list(scenario.later)
        self.start()
        for site, command in scenario.before:
            self.write(site, command)
        self.drain()
        assert self.equal and not self.records
        self.flushing = False
        for site, command in scenario.writes:
            self.write(site, command)

    def _transaction(self):  # type: ignore[no-untyped-def]
        return self._db  # commits, or rolls back

    @property
    def records(self) -> list[ConflictRecord]:
        """The log, oldest first."""
        return list(self.table.read("job", self.table.find("job")))

    # -- the log, as the shell writes it
    def flush(self) -> None:
        told = [
            Told(self._epoch, conflict, 1, 1 if conflict.state == "settled" else None) for conflict in self._unwritten
        ]
        with self._db:
            self.table.save("job", told)
        if any(t.conflict.state == "settled" for t in told):
            self.restored = False
        super().flush()

    def settle_closed(self) -> None:
        """What the shell does once a life has read again what the ones before had read."""
        assert self.pair is not None
        units = {(a.unit.database, a.unit.key, a.unit.element) for a in self.pair.arbiter}
        self.table.settle_closed("job", self._epoch, units, 1)

    # -- steps
    def step(self) -> bool:
        """One thing that can happen now. False: nothing can."""
        self._write_later()
        ways: list[Callable[[], bool]] = [] if self.lazy else [self._flushes]
        for x in RULES.origins:
            ways += [lambda x=x: self._reads_entry(x), lambda x=x: self._delivers(x), lambda x=x: self.answer(x)]
        self.chance.shuffle(ways)
        for way in [*ways, self._flushes] if self.lazy else ways:
            if way():
                self.steps += 1
                return True
        return False

    def _write_later(self) -> None:
        if self.left and self.pair is not None and any(a.phase != "new" for a in self.pair.arbiter):
            for site, command in self.left:
                self.write(site, command)
            self.left = []

    def _flushes(self) -> bool:
        waiting = bool(self._unwritten)
        self.flush()
        return waiting

    def _reads_entry(self, x: str) -> bool:
        """Bytes up to the end of the next entry that the engine acts on."""
        if self.pair is None or x not in self._cursors:
            return False
        entries = self.entries(x)
        end = next((e.end for e in entries if e.end > self._cursors[x]), None)
        return end is not None and self.read(x, end - self._cursors[x])

    def _delivers(self, x: str) -> bool:
        socket = self._sockets.get(x)
        sent = b"".join(data for data, _ in socket.sent) if socket is not None else b""
        if not self.deliver(x):
            return False
        self.restored = self.restored or _restores(sent)
        self.ours |= _values_in(sent)
        return True

    def finish(self) -> None:
        """Until nothing can happen any more."""
        while self.step():
            assert self.steps < STEPS_MAX, "this never ends"
        if self.left:
            for site, command in self.left:
                self.write(site, command)
            self.left = []
            return self.finish()
        self.settle_closed()
        assert self.pair is not None and not len(self.pair.arbiter), self.pair

    # -- kills
    def strike(self, how: str) -> None:
        """The engine is gone, and another one, or its next life, begins."""
        arrives = how in ("arrives before", "arrives after") and any(
            _restores(data) for socket in self._sockets.values() for data, _ in socket.sent
        )
        if how == "another life":
            self.window = self.window or self.restored
            self.flush()  # the shell goes on writing what it was told
            self.reconnect()
            return
        self.window = self.window or self.restored or (arrives and how == "arrives before")
        if how == "lost":
            for socket in self._sockets.values():
                socket.sent.clear()
        self.kill()
        if how == "arrives before":
            while self.orphan():
                pass
        self.restored = False
        self.start()
        if how == "arrives after":
            while self.orphan():
                pass


def _restores(data: bytes) -> bool:
    """Is there a note, with which every restore begins, among these bytes?"""
    key = open_key("job")
    return b"HSET\r\n$%d\r\n%b\r\n" % (len(key), key) in data


def _values_in(data: bytes) -> set[str]:
    """Digests of what is restored by these bytes, as the log gives them."""
    parser = hiredis.Reader()
    parser.feed(data)
    found, restoring = set(), False
    while words := parser.gets():
        if words[:2] == [b"HSET", open_key("job")]:
            restoring = True
        elif restoring and words[0] in (b"RESTORE", b"HSET"):
            found.add(hashlib.sha256(words[3]).hexdigest())
    return found


HOW = ("lost", "arrives before", "arrives after", "another life")


def reference(scenario: Scenario, order: int) -> Play:
    """The scenario without a kill."""
    play = Play(scenario, order)
    play.finish()
    return play


def check(play: Play, expected: Play) -> None:
    """Equal, what is expected, and each conflict once in the log with what it should tell."""
    assert play.equal, play.differences()
    assert play.dataset(E) == expected.dataset(E)
    records = play.records
    units = [(r.key, r.element) for r in records]
    assert sorted(units, key=repr) == sorted(set(units), key=repr), f"recorded more than once: {units}"
    wanted = play.scenario
    assert wanted.units <= set(units) <= wanted.units | wanted.may_be, units
    assert {r.state for r in records} == {"settled"}, records
    for record in records:
        if (record.key, record.element) in wanted.may_be:
            continue
        assert {w.site for w in record.writes} == {E, W}
        if wanted.keeps and not play.window:
            assert record.replaced is not None, "the loser's value was lost outside the known window"
            assert record.replaced.digest not in play.ours, "the log has what a restore of ours had put there"
        same = next(r for r in expected.records if (r.key, r.element) == (record.key, record.element))
        if wanted.exact:
            assert (record.winner, record.rule, record.certain) == (same.winner, same.rule, same.certain)
        if wanted.exact and record.replaced is not None:
            assert (record.replaced, record.kept) == (same.replaced, same.kept)


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_a_conflict_without_a_kill_is_settled_and_on_record(scenario: Scenario) -> None:
    for order in ORDERS:
        play = reference(scenario, order)
        check(play, play)


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_an_engine_killed_after_any_step_leaves_equal_sites_and_one_record(scenario: Scenario, how: str) -> None:
    in_window = outside = 0
    for order in ORDERS:
        expected = reference(scenario, order)
        for kill in range(expected.steps + 1):
            play = Play(scenario, order)
            while play.steps < kill and play.step():
                pass
            play.strike(how)
            play.finish()
            try:
                check(play, expected)
            except AssertionError as e:
                raise AssertionError(f"order {order}, killed after step {kill} of {expected.steps}") from e
            in_window, outside = in_window + play.window, outside + (not play.window)
    assert outside > in_window, "the window takes most of a round"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a string", "a field of a hash", "a write that the restore overtakes"])
def test_an_engine_killed_again_while_the_next_one_recovers(name: str) -> None:
    scenario, chance = SCENARIOS[name], random.Random(name)
    for order in ORDERS:
        expected = reference(scenario, order)
        for kill in range(0, expected.steps + 1, 3):
            play = Play(scenario, order)
            while play.steps < kill and play.step():
                pass
            for _ in range(4):
                play.strike(chance.choice(HOW))
                for _ in range(chance.randrange(40)):
                    play.step()
            play.finish()
            try:
                check(play, expected)
            except AssertionError as e:
                raise AssertionError(f"order {order}, first killed after step {kill}") from e
