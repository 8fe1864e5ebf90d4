"""Actions are values: equal when they say the same, and fit for a log."""

import attrs

from bisync.core.actions import Checkpoint, Conflict, ConflictingWrite, Notice, Replaced, Send


def conflict(state: str = "open", element: tuple[str, bytes] | None = None) -> Conflict:
    writes = (ConflictingWrite("east", b"SET k a", 30, 1, 2), ConflictingWrite("west", b"SET k b", 40, 3, 4))
    return Conflict(
        number=1,
        state=state,
        database=0,
        key=b"k",
        element=element,
        policy="last-writer",
        winner="west",
        rule="newest write",
        certain=True,
        counts={"east": 1, "west": 1},
        offsets={"east": (30, 30), "west": (40, 40)},
        writes=writes,
    )


def test_actions_that_say_the_same_are_equal() -> None:
    assert Send("east", b"x", 1) == Send("east", b"x", 1) != Send("east", b"x", 2)
    assert Checkpoint("forward", b"t") == Checkpoint("forward", b"t")
    assert Notice("info", "copied", "x") != Notice("info", "copied", "y")
    assert conflict() == conflict()
    assert conflict() != conflict(element=("hash", b"f"))
    assert conflict() != conflict("settled")


def test_a_conflict_has_no_value_that_was_replaced_before_it_is_settled() -> None:
    assert (conflict().replaced, conflict().kept) == (None, "")
    replaced = Replaced("east", "value", b"old", None, 3, "digest")
    assert attrs.evolve(conflict("settled"), replaced=replaced).replaced == replaced


def test_the_data_that_is_sent_does_not_get_into_a_log() -> None:
    assert repr(Send("east", b"secret value", 5)) == "Send(origin='east', payload=<12 bytes>, replies=5)"
