"""What follows from a write that failed at the other site."""

from bisync.core.actions import Action
from bisync.core.arbitration import Arbiter
from bisync.core.channel import Channel, open_channel
from bisync.core.commands import row
from bisync.core.failures import FAILURES_SAID, Failures
from bisync.core.moment import BEFORE_ALL
from bisync.core.operation import Operation
from bisync.core.pending import Pending
from bisync.core.position import START
from bisync.core.rules import Rules
from bisync.core.unit import Unit

RULES = Rules("job", "east", "west")


def write(*commands: tuple[bytes, ...], offset: int = 100, contested: bool = False) -> Pending:
    operations = [Operation(args, 0, b"", 0, row(args[0])) for args in commands]
    return Pending((0, 1, offset), offset - 10, operations, START, BEFORE_ALL, 10, contested)


def made() -> tuple[Failures, Arbiter, Channel, list[Action]]:
    arbiter, actions = Arbiter(RULES, {"east": 500, "west": 500}), list[Action]()
    return Failures(arbiter, actions), arbiter, open_channel(RULES, "east", {}, {}), actions


def test_a_write_that_did_not_fail_changes_nothing() -> None:
    failures, arbiter, channel, actions = made()
    failures.check(channel, write((b"INCR", b"n")))
    assert not len(arbiter) and not actions


def test_every_key_of_one_that_failed_is_copied_anew_from_its_origin_and_it_is_said() -> None:
    failures, arbiter, channel, actions = made()
    failed = write((b"SET", b"a", b"1"), (b"INCR", b"n"))
    channel.failed[failed.clock] = (1,)
    failures.check(channel, failed)
    assert {a.unit: (a.authority, a.low["east"]) for a in arbiter} == {
        Unit(0, b"a"): ("east", failed.start),
        Unit(0, b"n"): ("east", failed.start),
    }
    assert [a.text for a in actions] == ["a command of east failed at west: a, n differed. It is copied anew"]
    assert not channel.failed, "it is dealt with"


def test_of_one_that_met_another_the_arbitration_that_is_under_way_stands() -> None:
    failures, arbiter, channel, actions = made()
    arbiter.arbitrate(Unit(0, b"n"), None, {}, "west")
    failed = write((b"INCR", b"n"), contested=True)
    channel.failed[failed.clock] = (0,)
    failures.check(channel, failed)
    assert [a.authority for a in arbiter] == ["west"]
    assert [a.text for a in actions] == ["a write of east met another one and failed at west: INCR n"]


def test_a_renewal_that_found_no_key_is_made_good_in_silence() -> None:
    failures, arbiter, channel, actions = made()
    missed = write((b"PEXPIREAT", b"k", b"4000000000000"))
    channel.missed.add(missed.clock)
    failures.check(channel, missed)
    assert [a.unit for a in arbiter] == [Unit(0, b"k")] and not actions and not channel.missed


def test_it_is_said_of_so_many_keys_and_once_of_each() -> None:
    failures, arbiter, channel, actions = made()
    for n in range(FAILURES_SAID + 20):
        failed = write((b"INCR", b"%d" % (n // 2 * 2)), offset=100 + n, contested=True)
        channel.failed[failed.clock] = (0,)
        failures.check(channel, failed)
    assert len(actions) == (FAILURES_SAID + 20) // 2
    for n in range(FAILURES_SAID):
        failed = write((b"INCR", b"other %d" % n), offset=10_000 + n, contested=True)
        channel.failed[failed.clock] = (0,)
        failures.check(channel, failed)
    assert len(actions) == FAILURES_SAID
