"""Reconciling two sites that both hold data: whose value stands, and that nothing is missed while clients write."""

import random
from typing import Any

import attrs
import pytest

from bisync.core import reconciling
from bisync.core.pair import Pair
from bisync.core.reconciling import Choice, Unequal, choose
from bisync.core.rules import Rules
from bisync.testing.history import command
from bisync.testing.pair import SimulatedPair

RULES = Rules("job", "east", "west", target_not_empty="reconcile", heartbeat_ms=0)


def pair_of(rules: Rules = RULES, **values: tuple[bytes | None, bytes | None]) -> SimulatedPair:
    """A pair that holds these strings, at east and at west, and no engine."""
    pair = SimulatedPair(rules)
    for key, held in values.items():
        for site, value in zip(rules.sites, held, strict=True):
            if value is not None:
                pair.write(site, (b"SET", key.encode(), value))
    return pair


def strings(pair: SimulatedPair) -> dict[str, Any]:
    """What both sites hold, which must be the same."""
    assert pair.differences() == []
    return {key.decode(): held[1] for (_, key), held in pair.dataset("east").items()}


def attached(pair: SimulatedPair) -> Pair:
    """Its core, once both streams are followed and nothing is compared yet."""
    pair.start()
    while pair.pair is not None and not pair.pair.copying.finished:
        for x in pair.rules.origins:
            pair.read(x, 1 << 16)
            pair.deliver(x)
            pair.answer(x)
    assert pair.pair is not None and pair.pair.copying.reconciling
    return pair.pair


def found(pair: SimulatedPair, *keys: Unequal) -> None:
    """The engine has found that these keys are not the same."""
    pair._guarded(lambda core: core.found_unequal(keys, pair.now_ms))


def deliver_all(pair: SimulatedPair) -> None:
    """Let writes travel until nothing moves, without comparing anything."""
    while any([pair.read(x, 1 << 16) | pair.deliver(x) | pair.answer(x) for x in pair.rules.origins]):
        pass


def test_what_only_one_site_holds_is_kept_and_of_two_values_the_policy_chooses() -> None:
    prefers = attrs.evolve(RULES, policies=(((b"w:*",), "west"),))
    assert choose(RULES, b"k", "west") == Choice("west", "")
    assert choose(prefers, b"w:1", "east") == Choice("east", "")
    assert choose(RULES, b"k") == Choice("east", "order of the sites", False)
    assert choose(RULES, b"k", stands="west") == Choice("west", "unbroken history", False)
    assert choose(prefers, b"w:1") == Choice("west", "preferred site")
    assert choose(prefers, b"w:1", "west", copies=True) == Choice("east", "order of the sites", False)


def test_both_sites_keep_what_they_hold_and_the_log_has_each_value_that_was_replaced() -> None:
    pair = pair_of(here=(b"1", None), there=(None, b"2"), both=(b"old", b"new"), same=(b"3", b"3"))
    pair.start()
    pair.drain()
    assert strings(pair) == {"here": b"1", "there": b"2", "both": b"old", "same": b"3"}
    [told] = pair.log
    assert (told.key, told.winner, told.rule, told.certain) == (b"both", "east", "order of the sites", False)
    assert told.replaced is not None and told.replaced.site == "west" and told.replaced.kind == "dump"
    assert told.counts == {"east": 1, "west": 1} and told.state == "settled"


@pytest.mark.parametrize("preferred", ["east", "west"])
def test_a_preferred_site_is_right_where_both_hold_a_value(preferred: str) -> None:
    pair = pair_of(attrs.evolve(RULES, policy=preferred), a=(b"east", b"west"), b=(b"east", None), c=(None, b"west"))
    pair.start()
    pair.drain()
    assert strings(pair) == {"a": preferred.encode(), "b": b"east", "c": b"west"}
    assert [(told.winner, told.rule, told.certain) for told in pair.log] == [(preferred, "preferred site", True)]


def test_values_that_are_equal_for_a_moment_only_are_not_taken_to_be_equal() -> None:
    """An INCR is under way from east while both sites hold 2: west will hold 3."""
    pair = pair_of(n=(b"1", b"2"))
    core = attached(pair)
    pair.write("east", (b"INCR", b"n"))
    while core.copying.reconciling and pair.compare(10):
        pair.read("east", 1 << 16)  # read, and not delivered
    pair.drain()
    assert strings(pair) == {"n": b"2"}


def test_a_write_that_arrives_between_the_reading_of_two_sites_makes_the_key_unsteady() -> None:
    """East is read after its INCR, west before it gets it: both show 2. When the core is asked, all has arrived."""
    pair = pair_of(n=(b"1", b"2"))
    core = attached(pair)
    pair.write("east", (b"INCR", b"n"))
    assert pair.compare(10) and pair.compare(10), "both sites are read"
    deliver_all(pair)
    assert not len(core.channels["east"].pending) and core.reconciling.touched() == {(0, b"n")}
    pair.drain()
    assert strings(pair) == {"n": b"2"}


def test_a_key_that_is_equal_by_then_is_not_in_the_log() -> None:
    pair = pair_of(same=(b"1", b"1"), gone=(None, None))
    attached(pair)
    found(pair, Unequal(0, b"same"), Unequal(0, b"gone"))
    pair.drain()
    assert strings(pair) == {"same": b"1"} and pair.log == []


def test_clients_writes_that_meet_while_a_key_is_settled_are_in_the_log_at_once() -> None:
    pair = pair_of(k=(b"1", b"2"))
    core = attached(pair)
    found(pair, Unequal(0, b"k"))
    assert pair.log == []
    pair.write("east", (b"APPEND", b"k", b"e"))
    pair.write("west", (b"APPEND", b"k", b"w"))
    for x in RULES.sites:
        pair.read(x, 1 << 16)
    [told] = pair.log
    (held,) = core.arbiter
    assert held.record is not None and not held.record.quiet, "it is told whatever comes of it"
    assert told.state == "open" and told.counts == {"east": 2, "west": 2} and len(core.arbiter) == 1
    pair.drain()
    assert strings(pair)["k"] in (b"1ew", b"1we")


def test_what_is_computed_from_a_key_that_was_not_compared_yet_is_settled_too() -> None:
    """`a` is compared first. Then COPY gives it the value of `z`, of which each site has its own."""
    pair = pair_of(a=(b"1", b"1"), z=(b"east", b"west"))
    attached(pair)
    for _ in range(3):
        pair.compare(1)
    pair.write("west", (b"COPY", b"z", b"a", b"REPLACE"))
    pair.drain()
    assert strings(pair) == {"a": b"west", "z": b"east"}


def test_pushes_at_both_sites_do_not_bring_the_other_sites_list() -> None:
    """They meet before the key is compared; the newer one is west's push, so east's list might as well have gone."""
    pair = SimulatedPair(RULES)
    pair.write("east", (b"RPUSH", b"list", b"old"))
    attached(pair)
    pair.write("west", (b"RPUSH", b"list", b"w"))
    pair.write("east", (b"RPUSH", b"list", b"e"))
    deliver_all(pair)
    pair.drain()
    assert sorted(strings(pair)["list"]) == [b"e", b"old", b"w"]


def test_a_whole_key_waits_for_its_elements_and_keeps_what_only_its_site_holds() -> None:
    pair = SimulatedPair(RULES)
    pair.write("west", (b"HSET", b"h", b"only", b"west"))
    core = attached(pair)
    pair.write("east", (b"HSET", b"h", b"f", b"1"))
    pair.write("west", (b"HSET", b"h", b"f", b"2"))
    for x in RULES.sites:
        pair.read(x, 1 << 16)
    assert len(core.arbiter) == 1
    found(pair, Unequal(0, b"h", "west"))
    assert core.reconciling.blocked
    pair.drain()
    assert strings(pair)["h"] == {b"only": b"west", b"f": b"2"}


@pytest.mark.slow
@pytest.mark.parametrize("death", ["start", "reconnect", "start_and_die"])
@pytest.mark.parametrize("steps", range(0, 12, 2))
def test_a_crash_in_the_middle_leaves_nothing_uncompared(death: str, steps: int) -> None:
    pair = pair_of(**{f"k{n}": (b"east", b"west") for n in range(4)}, a=(b"1", None), b=(None, b"2"))
    attached(pair)
    for _ in range(steps):
        pair.compare(2)
        pair.deliver("west" if steps % 4 else "east")
    getattr(pair, death)()
    pair.drain()
    assert strings(pair) == {**{f"k{n}": b"east" for n in range(4)}, "a": b"1", "b": b"2"}
    assert pair.pair is not None and pair.pair.copying.done


def test_once_done_it_is_not_done_again() -> None:
    pair = pair_of(k=(b"1", b"2"))
    pair.start()
    pair.drain()
    pair.start()
    assert pair.pair is not None and pair.pair.copying.done and not pair.compare(10)


def test_no_more_keys_are_taken_than_may_be_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciling, "OPEN_MAX", 3)
    pair = pair_of(**{f"k{n}": (b"east", None) for n in range(8)})
    core = attached(pair)
    found(pair, Unequal(0, b"k0", "east"), Unequal(0, b"k1", "east", size=1 << 30))
    assert core.reconciling.waits(), "a value is too big for another one beside it"
    deliver_all(pair)
    assert not core.reconciling.waits() and not core.reconciling.settling
    found(pair, *(Unequal(0, b"k%d" % n, "east") for n in range(2, 5)))
    assert core.reconciling.waits() and core.reconciling.settling == 3
    deliver_all(pair)
    assert not core.reconciling.waits()


# -- after a gap
def test_a_job_that_begins_anew_keeps_both_sites_data_and_forgets_what_it_knew() -> None:
    pair = pair_of(attrs.evolve(RULES, target_not_empty="refuse", on_gap="reconcile"), k=(b"1", None))
    pair.start()
    pair.drain()
    pair.kill()
    pair.write("east", (b"SET", b"e", b"unread"), (b"SET", b"k", b"east"))
    pair.write("west", (b"SET", b"w", b"unread"), (b"SET", b"k", b"west"))
    assert pair.begin_anew("west")
    pair.drain()
    assert strings(pair) == {"e": b"unread", "w": b"unread", "k": b"west"}
    assert [(told.key, told.winner, told.rule) for told in pair.log] == [(b"k", "west", "unbroken history")]


def test_a_full_copy_after_a_gap_makes_the_target_equal_and_logs_what_it_took_away() -> None:
    pair = pair_of(attrs.evolve(RULES, on_gap="full"), k=(b"1", None))
    pair.start()
    pair.drain()
    pair.kill()
    pair.write("west", (b"SET", b"w", b"unread"), (b"SET", b"k", b"west"))
    assert pair.begin_anew("east")
    pair.drain()
    assert strings(pair) == {"k": b"1"}
    lost = {told.key: told.replaced.site for told in pair.log if told.replaced is not None}
    assert lost == {b"w": "west", b"k": "west"}


def test_a_one_way_job_that_begins_anew_copies_and_removes_what_the_source_has_not() -> None:
    pair = pair_of(attrs.evolve(RULES, bidirectional=False, target_not_empty="refuse", on_gap="full"), k=(b"1", None))
    pair.start()
    pair.drain()
    pair.kill()
    pair.write("east", (b"DEL", b"k"), (b"SET", b"j", b"2"))
    assert pair.begin_anew("east")
    pair.drain()
    assert strings(pair) == {"j": b"2"}


def test_a_crash_while_a_job_begins_anew_leaves_no_tag_that_is_believed() -> None:
    """One site has the tag of the new beginning, the other one of before."""
    pair = pair_of(attrs.evolve(RULES, on_gap="reconcile"), k=(b"1", b"2"))
    pair.start()
    pair.drain()
    pair.kill()
    pair.write("west", (b"SET", b"w", b"unread"))
    pair._memory = attrs.evolve(pair._memory, anew="east")
    pair._connect()
    pair._replace("east", pair._taking())
    pair._sockets = {}
    assert pair.start()
    assert pair.pair is not None and pair.pair.copying.compares and not pair.pair.copying.finished
    pair.drain()
    assert strings(pair) == {"k": b"1", "w": b"unread"}


# -- random histories
class _Run:
    """A random history: data before the beginning, writes during it, crashes, perhaps a gap."""

    def __init__(self, seed: int, *, crashes: bool, gaps: bool) -> None:
        self.draw = draw = random.Random(seed)
        policy = draw.choice(["last-writer", "east", "west"])
        self.pair = SimulatedPair(attrs.evolve(RULES, policy=policy, on_gap=draw.choice(["reconcile", "full"])))
        self.crashes, self.gaps = crashes, gaps
        self.began_anew = False
        self.keys = [b"ka", b"kb", b"kc", b"kd"]
        self.untouched: dict[bytes, dict[str, bytes]] = {}
        for site in self.pair.sites:
            for _ in range(draw.randrange(8)):
                self.write(site)
            for n in range(6):
                if draw.random() < 0.6:
                    value = draw.choice([b"same", site.encode()])
                    self.untouched.setdefault(b"u%d" % n, {})[site] = value
                    self.pair.write(site, (b"SET", b"u%d" % n, value))

    def write(self, site: str) -> None:
        self.pair.write(site, command(self.draw, self.keys, self.pair.now_ms))

    def run(self) -> None:
        draw, pair = self.draw, self.pair
        pair.start()
        for _ in range(draw.choice([40, 150])):
            x = draw.choice(pair.rules.sites)
            roll = draw.random()
            if roll < 0.25:
                self.write(x)
            elif roll < 0.28 and self.crashes:
                draw.choice([pair.kill, pair.reconnect, pair.start_and_die])()
            elif roll < 0.285 and self.gaps:
                self.began_anew = True
                pair.begin_anew(x)
            elif pair.pair is None:
                pair.start()
            else:
                pair.compare(draw.choice([1, 3]))
                draw.choice([pair.deliver, pair.answer, lambda x: pair.read(x, draw.choice([9, 90, 900]))])(x)
        pair.drain()


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 300, 100))
def test_what_no_client_touches_is_kept_and_each_value_that_is_replaced_is_in_the_log(first: int) -> None:
    for seed in range(first, first + 100):
        run = _Run(seed, crashes=False, gaps=False)
        run.run()
        pair = run.pair
        assert pair.differences() == [], seed
        preferred = pair.rules.source if pair.rules.policy == "last-writer" else pair.rules.policy
        logged = {told.key: told for told in pair.log}
        for key, held in run.untouched.items():
            value = held.get(preferred) or next(iter(held.values()))
            assert pair.dataset("east")[0, key][1] == value, (seed, key)
            assert (key in logged) == (len(set(held.values())) > 1), (seed, key)
            if key in logged:
                told = logged[key]
                assert told.winner == preferred and told.replaced is not None, seed
                assert told.replaced.site == pair.rules.other(preferred), seed


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 300, 100))
def test_with_crashes_and_gaps_both_sites_end_equal_and_keep_what_only_one_holds(first: int) -> None:
    for seed in range(first, first + 100):
        run = _Run(seed, crashes=True, gaps=True)
        run.run()
        pair = run.pair
        assert pair.differences() == [] and pair.pair is not None and not len(pair.pair.arbiter), seed
        if not run.began_anew or pair.rules.on_gap == "reconcile":
            data = {key: value for (_, key), (_, value, _) in pair.dataset("west").items()}
            assert all(data.get(key) in held.values() for key, held in run.untouched.items()), seed
