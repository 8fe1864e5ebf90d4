"""The state of the full copy."""

import pytest

from bisync.core.copying import Copying
from bisync.core.position import stream_clock
from bisync.core.rules import Rules
from bisync.core.tag import Tag


def test_the_clocks_of_a_copys_keys_grow_and_stand_before_its_stream() -> None:
    copying = Copying()
    copying.begin(1)
    first, second = copying.next_clock(), copying.next_clock()
    assert first < second == copying.clock < stream_clock(copying.copy, 0)
    assert copying.keys == 2


def test_a_copy_that_begins_again_is_newer_than_all_of_the_one_that_broke_off() -> None:
    copying = Copying()
    copying.begin(1)
    before = stream_clock(copying.copy, 1 << 60)
    copying.ended = copying.finishing = True
    copying.begin(1)
    assert copying.next_clock() > before
    assert (copying.keys, copying.ended, copying.finishing) == (1, False, False)


def test_it_may_finish_once_and_only_when_every_key_was_handed_in() -> None:
    copying = Copying()
    copying.begin(1)
    assert not copying.may_finish
    copying.ended = True
    assert copying.may_finish
    copying.finishing = True
    assert not copying.may_finish
    copying.finishing, copying.finished = False, True
    assert not copying.may_finish


@pytest.mark.parametrize(("known", "epoch", "number"), [(0, 1, 1), (0, 7, 7), (7, 3, 8), (7, 8, 8), (7, 7, 8)])
def test_a_copys_number_is_higher_than_that_of_every_copy_before_also_of_one_that_nobody_remembers(
    known: int, epoch: int, number: int
) -> None:
    """A flush may take the tag away that told of a copy; but its number was an epoch or came after one."""
    copying = Copying(known)
    copying.begin(epoch)
    assert copying.copy == number


RECONCILES = Rules("job", "east", "west", target_not_empty="reconcile")


@pytest.mark.parametrize(
    ("forward", "reverse", "expected"),
    [
        (None, None, ("east", False)),  # the beginning
        (Tag("job", 1, "e", copied=1, reconciling="west"), None, ("west", False)),
        (Tag("job", 1, "e", copied=1), Tag("job", 1, "e", copied=1, reconciling="east"), ("", True)),
        (None, Tag("job", 1, "e", copied=1, reconciling="west"), ("west", False)),
    ],
)
def test_the_forward_channels_tag_says_whether_the_sites_are_reconciled(
    forward: Tag | None, reverse: Tag | None, expected: tuple[str, bool]
) -> None:
    tags = {name: tag for name, tag in (("forward", forward), ("reverse", reverse)) if tag is not None}
    copying = Copying.resumed(RECONCILES, tags)
    assert (copying.reconciling, copying.done) == expected


def test_a_two_way_job_that_begins_anew_compares_and_a_one_way_job_copies_again() -> None:
    tags = {"forward": Tag("job", 5, "e", begun=5)}
    copying = Copying.resumed(Rules("job", "east", "west"), tags)
    assert copying.compares and not copying.again
    copying = Copying.resumed(Rules("job", "east", "west", bidirectional=False), tags)
    assert copying.again and not copying.compares and not copying.reconciling
