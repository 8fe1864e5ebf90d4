"""Actions are values: equal when they say the same, and fit for a log."""

from bisync.core.actions import Checkpoint, Conflict, Notice, Send


def test_actions_that_say_the_same_are_equal() -> None:
    assert Send("east", b"x", 1) == Send("east", b"x", 1) != Send("east", b"x", 2)
    assert Checkpoint("forward", b"t") == Checkpoint("forward", b"t")
    assert Notice("info", "copied", "x") != Notice("info", "copied", "y")
    assert (
        len(
            {
                Conflict(0, b"k", None, "east"),
                Conflict(0, b"k", None, "east"),
                Conflict(0, b"k", ("hash", b"f"), "east"),
            }
        )
        == 2
    )


def test_the_data_that_is_sent_does_not_get_into_a_log() -> None:
    assert repr(Send("east", b"secret value", 5)) == "Send(origin='east', payload=<12 bytes>, replies=5)"
