"""The random histories notice when a rule of the core is broken: a test of the tests."""

from collections.abc import Callable

import attrs
import pytest

import bisync.testing.pair
from bisync.core import arbitration, detection, near, pair
from bisync.core.arbitration import Arbiter
from bisync.core.copying import Copying
from bisync.core.floor import Floors
from bisync.core.link import Link
from bisync.core.moment import Moment
from bisync.core.pair import Pair
from bisync.core.pending import Pending, PendingWrites
from bisync.core.policy import Verdict
from bisync.core.position import START
from bisync.core.record import Record
from bisync.core.resp import pack, select
from bisync.core.round import Rounds
from bisync.core.rules import Rules
from bisync.core.snapshot import SnapshotKeys
from bisync.testing.history import Course, broken, course, run_history

HISTORIES_MAX = 1500
"""So many histories must be enough to notice; most breaks show within a hundred."""

RULES = Rules("job", "east", "west", heartbeat_ms=0)
ONE_DATABASE = Course(attrs.evolve(RULES, batch_commands=1), 120, 0.03, databases=(1,))
LONG = Course(attrs.evolve(RULES, batch_commands=3), 300, 0.02)
EXPIRING = Course(RULES, 300, 0.01, apart=True, writes="expiring")
WIPING = Course(attrs.evolve(RULES, target_not_empty="overwrite", batch_commands=3), 120, 0.05, writes="wiping")
EXACT = Course(RULES, 300, 0.03, lazy=True, exact=True)

Break = Callable[[pytest.MonkeyPatch], None]


def foreign_writes_are_taken_for_a_clients(patch: pytest.MonkeyPatch) -> None:
    foreign = Pair._foreign

    def also_sent_on(self: Pair, channel, entry, tag, now_ms) -> None:  # type: ignore[no-untyped-def]
        foreign(self, channel, entry, tag, now_ms)
        self._client(channel, entry, now_ms)

    patch.setattr(Pair, "_foreign", also_sent_on)


def nothing_watches_the_tag(patch: pytest.MonkeyPatch) -> None:
    made = Link.__init__

    def unguarded(self: Link, tag_key: bytes, **bounds) -> None:  # type: ignore[no-untyped-def]
        made(self, tag_key, **bounds)
        self._guard = select(0) + pack(b"EXISTS", tag_key) + pack(b"GET", tag_key)

    patch.setattr(Link, "__init__", unguarded)


def what_was_applied_is_sent_again(patch: pytest.MonkeyPatch) -> None:
    client = Pair._client

    def forgetful(self: Pair, channel, entry, now_ms) -> None:  # type: ignore[no-untyped-def]
        channel.resumed = START
        client(self, channel, entry, now_ms)

    patch.setattr(Pair, "_client", forgetful)


def floors_stand_anywhere(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Floors, "advance", lambda self, site, low: self.move(site, low, 0))


def floors_pass_open_arbitrations(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Rounds, "lowest", lambda self, site, position: position)


def the_reverse_channel_is_not_held_for_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pair, "hold", lambda self, x, held: None)


def a_restore_leaves_no_note(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Rounds, "_note", lambda self, *a: (0, pack(b"HDEL", self._open_key, b"nothing")))


def the_finished_copy_leaves_no_notes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Rounds, "note_all_open", lambda self, site: [])


def notes_are_not_taken_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Rounds, "take_up_notes", lambda self, floors: None)


def no_round_is_ever_dirty(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Arbiter, "mark_dirty", lambda self, site, start, op: None)


def the_reply_to_a_fence_is_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pair, "_waits_for_reply", lambda self, channel, tag: False)


def the_copy_is_finished_before_it_was_seen_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PendingWrites, "holds_copied", lambda self: False)


def a_repeated_copy_settles_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pair, "Copying", lambda copy, finished, again: Copying(copy, finished))


def stale_keys_stay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SnapshotKeys, "stale", lambda self, database, key: None)


def no_two_writes_are_concurrent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pending, "concurrent", lambda self, other: False)


def all_writes_commute(patch: pytest.MonkeyPatch) -> None:
    for module in (detection, near):
        patch.setattr(module, "interchangeable", lambda *a: True)


def the_authority_moves_for_any_winner(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(arbitration, "overwrites", lambda winner, unit: True)


def who_is_read_last_loses(patch: pytest.MonkeyPatch) -> None:
    for module in (detection, arbitration):
        patch.setattr(module, "judge", lambda rules, key, a, b: Verdict(b, "newest write"))


def the_older_write_counts_as_newer(patch: pytest.MonkeyPatch) -> None:
    before = Moment.is_likely_before
    patch.setattr(Moment, "is_likely_before", lambda self, other: before(other, self))


def nothing_is_tainted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Arbiter, "taint", lambda self, site, start, op: None)
    patch.setattr(Arbiter, "taint_pending", lambda self, pending: None)


def all_on_a_hot_key_is_taken_to_commute(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(detection, "FEW", 0)
    patch.setattr(near, "relation", lambda p, q: near.ALWAYS)


def what_expires_under_our_own_writes_goes_unseen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pair, "_expired", lambda self, channel, entry, tag, now_ms: None)


def copies_are_counted_from_the_tag_alone(patch: pytest.MonkeyPatch) -> None:
    begin = Copying.begin
    patch.setattr(Copying, "begin", lambda self, epoch: begin(self, 0))


def floors_pass_conflicts_that_are_not_in_the_log(patch: pytest.MonkeyPatch) -> None:
    lives = Arbiter._lives
    patch.setattr(Arbiter, "_lives", lambda self, owner, *at: not isinstance(owner, Record) and lives(self, owner, *at))


def a_conflict_is_told_of_commuting_writes_too(patch: pytest.MonkeyPatch) -> None:
    for module in (detection, near):
        patch.setattr(module, "interchangeable", lambda *a: False)


BREAKS: list[tuple[Break, Course | None]] = [
    (foreign_writes_are_taken_for_a_clients, None),
    (nothing_watches_the_tag, None),
    (what_was_applied_is_sent_again, None),
    (floors_stand_anywhere, ONE_DATABASE),
    (floors_pass_open_arbitrations, LONG),
    (the_reverse_channel_is_not_held_for_the_snapshot, None),
    (a_restore_leaves_no_note, LONG),
    (the_finished_copy_leaves_no_notes, None),
    (notes_are_not_taken_up, LONG),
    (no_round_is_ever_dirty, None),
    (the_reply_to_a_fence_is_not_waited_for, None),
    (the_copy_is_finished_before_it_was_seen_back, None),
    (a_repeated_copy_settles_nothing, None),
    (stale_keys_stay, None),
    (no_two_writes_are_concurrent, None),
    (all_writes_commute, None),
    (the_authority_moves_for_any_winner, None),
    (who_is_read_last_loses, None),
    (the_older_write_counts_as_newer, None),
    (nothing_is_tainted, None),
    (all_on_a_hot_key_is_taken_to_commute, None),
    (what_expires_under_our_own_writes_goes_unseen, EXPIRING),
    (copies_are_counted_from_the_tag_alone, WIPING),
    (floors_pass_conflicts_that_are_not_in_the_log, EXACT),
    (a_conflict_is_told_of_commuting_writes_too, EXACT),
]


def noticed(seed: int, kind: Course | None) -> bool:
    """Does this history end in anything but what was promised?"""
    try:
        return broken(seed, kind) != []
    except Exception:
        return True


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "kind"), BREAKS, ids=[b.__name__ for b, _ in BREAKS])
def test_a_broken_rule_is_noticed(rule: Break, kind: Course | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bisync.testing.pair, "QUIET_STEPS_MAX", 300)
    rule(monkeypatch)
    assert any(noticed(seed, kind) for seed in range(HISTORIES_MAX)), "the histories cannot fail where they should"


def test_with_every_rule_in_place_the_same_histories_notice_nothing() -> None:
    kinds = (None, LONG, ONE_DATABASE, EXPIRING, WIPING, EXACT)
    assert not [(seed, kind) for seed in range(60) for kind in kinds if noticed(seed, kind)]


def test_the_same_seed_is_the_same_history() -> None:
    first, again = run_history(7)[0], run_history(7)[0]
    assert [s.stream for s in first.sites.values()] == [s.stream for s in again.sites.values()]


def test_the_courses_are_of_all_kinds() -> None:
    drawn = [course(seed) for seed in range(100)]
    assert {c.rules.policy for c in drawn} == {"last-writer", "east", "west"}
    assert {c.rules.bidirectional for c in drawn} == {c.apart for c in drawn} == {True, False}
    assert {c.rules.batch_commands for c in drawn} == {1, 3, 1000}
    assert {c.crash for c in drawn} == {0, 0.01, 0.05}
