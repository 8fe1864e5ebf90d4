"""What is kept of a conflict."""

import random

import pytest

from bisync.core.actions import COMMAND_BYTES_MAX, WRITES_KEPT, Replaced
from bisync.core.moment import BEFORE_ALL, Moment
from bisync.core.operation import copied_operation
from bisync.core.policy import Contender, Verdict
from bisync.core.position import copied_clock, stream_clock
from bisync.core.record import TOLD_APART_MAX, Record, Side
from bisync.core.rules import Rules
from tests.core.writes import RULES, contender


def record(verdict: Verdict, policy: str = "last-writer") -> Record:
    return Record(7, 2, b"k", None, policy, verdict, {"east": 1, "west": 2})


def writes(site: str, n: int) -> list[Contender]:
    return [contender(f"SET k {i}", site, i, 10 * (i + 1)) for i in range(n)]


@pytest.mark.parametrize("n", [1, 2, WRITES_KEPT, WRITES_KEPT + 1, 2 * WRITES_KEPT, 2 * WRITES_KEPT + 1, 50])
@pytest.mark.parametrize("order", ["oldest first", "newest first", "any order"])
def test_all_writes_are_counted_and_the_first_and_last_few_kept_in_whatever_order_they_come(n: int, order: str) -> None:
    side, made = Side(), writes("east", n)
    coming = made[::-1] if order == "newest first" else list(made)
    if order == "any order":
        random.Random(n).shuffle(coming)
    for write in coming + coming:  # each meets several of the other site
        side.add(write)
    assert side.count == n
    kept = made if n <= 2 * WRITES_KEPT else made[:WRITES_KEPT] + made[-WRITES_KEPT:]
    assert side.kept == kept


def test_memory_is_bounded_where_no_write_is_settled_for_long() -> None:
    side = Side()
    one = contender("SET k v", "east")
    n = TOLD_APART_MAX + 100
    for i in range(n):
        side.add(Contender(one.operation, stream_clock(0, i), one.when, "east"))
    assert side.count == n
    assert len(side._counted) <= TOLD_APART_MAX
    assert len(side.kept) == 2 * WRITES_KEPT
    assert side.kept[-1].clock == stream_clock(0, n - 1)
    side.add(side.kept[-1])
    assert side.count == n


def test_what_is_told_names_both_sites_writes_the_winner_and_the_rule() -> None:
    east, west = writes("east", 9), writes("west", 1)
    subject = record(Verdict(west[0], "newest write"))
    for c in (*east, *west):
        subject.met(c)
    replaced = Replaced("east", "dump", b"payload", None, 7, "digest")
    told = subject.told("settled", replaced, "restored")
    assert (told.number, told.state, told.database, told.key, told.element) == (7, "settled", 2, b"k", None)
    assert (told.policy, told.winner, told.rule, told.certain) == ("last-writer", "west", "newest write", True)
    assert (told.counts, told.offsets) == ({"east": 9, "west": 1}, {"east": (10, 90), "west": (10, 10)})
    assert (told.replaced, told.kept) == (replaced, "restored")
    assert [w.latest_us for w in told.writes] == sorted(w.latest_us for w in told.writes)
    assert len(told.writes) == 2 * WRITES_KEPT + 1
    assert {w.command for w in told.writes if w.site == "west"} == {b"SET k 0"}


def test_a_site_is_the_policys_name_for_people() -> None:
    one = contender("SET k v", "east")
    assert record(Verdict(one, "preferred site"), "east").told("open").policy == "prefer:east"


def test_a_long_command_is_cut() -> None:
    long = contender("SET k " + "v" * 1000, "east", Moment(3, 9), 1010)
    subject = record(Verdict(long, "newest write"))
    subject.met(long)
    (told,) = subject.told("open").writes
    assert told.command == b"SET k " + b"v" * (COMMAND_BYTES_MAX - 6)
    assert (told.site, told.offset, told.earliest_us, told.latest_us) == ("east", 1010, 3, 9)


def test_a_copied_key_stands_in_no_stream() -> None:
    copied = Contender(copied_operation(0, b"k", stale=False), copied_clock(1, 5), BEFORE_ALL, "east")
    subject = record(Verdict(copied, "newest write"))
    subject.met(copied)
    told = subject.told("open")
    assert told.offsets == {"east": (0, 0)}
    assert told.writes[0].command == b"COPIED k"


# -- writes that failed at the other site
@pytest.mark.parametrize("failed", [[], ["west"], ["east"], ["east", "west"]])
def test_a_winner_that_failed_across_gives_way_to_one_that_did_not(failed: list[str]) -> None:
    rules: Rules = RULES
    made = {site: contender(f"SET k {site}", site) for site in rules.sites}
    subject = record(Verdict(made["east"], "newest write"))
    for c in made.values():
        subject.met(c)
    subject.failed.update((site, made[site].clock) for site in failed)
    subject.conclude(rules.other)
    told = subject.told("settled")
    other = failed == ["east"]
    assert (told.winner, told.rule) == (("west", "the other one failed") if other else ("east", "newest write"))
