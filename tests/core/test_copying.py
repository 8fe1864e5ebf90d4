"""The state of the full copy."""

from bisync.core.copying import OLDEST_MS, Copying
from bisync.core.position import stream_clock


def test_the_clocks_of_a_copys_keys_grow_and_stand_before_its_stream() -> None:
    copying = Copying()
    copying.begin()
    first, second = copying.next_clock(), copying.next_clock()
    assert first < second == copying.clock < stream_clock(copying.copy, 0)
    assert copying.keys == 2


def test_a_copy_that_begins_again_is_newer_than_all_of_the_one_that_broke_off() -> None:
    copying = Copying()
    copying.begin()
    before = stream_clock(copying.copy, 1 << 60)
    copying.ended = copying.finishing = True
    copying.begin()
    assert copying.next_clock() > before
    assert (copying.keys, copying.ended, copying.finishing) == (1, False, False)


def test_it_may_finish_once_and_only_when_every_key_was_handed_in() -> None:
    copying = Copying()
    copying.begin()
    assert not copying.may_finish
    copying.ended = True
    assert copying.may_finish
    copying.finishing = True
    assert not copying.may_finish
    copying.finishing, copying.finished = False, True
    assert not copying.may_finish


def test_a_copied_key_is_older_than_any_time() -> None:
    assert OLDEST_MS < -(10**15)
