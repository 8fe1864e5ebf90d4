"""What a target's refusal means."""

import hiredis
import pytest

from bisync.core.reply import read_refusal

QUEUED = b"QUEUED"


def refused(text: str, at: int = 0, commands: int = 3) -> list[object]:
    """The replies from MULTI to EXEC, where the `at`th command was not queued."""
    queued: list[object] = [QUEUED] * commands
    queued[at] = hiredis.ReplyError(text)
    return [b"OK", *queued, hiredis.ReplyError("EXECABORT Transaction discarded because of previous errors.")]


@pytest.mark.parametrize("word", "OOM LOADING MISCONF NOREPLICAS READONLY BUSY MASTERDOWN CLUSTERDOWN TRYAGAIN".split())
def test_what_may_pass_by_itself_heals_and_has_a_remedy(word: str) -> None:
    refusal = read_refusal(refused(f"{word} for some reason"))
    assert refusal.heals
    assert refusal.hint
    assert refusal.text == f"{word} for some reason"


@pytest.mark.parametrize(
    "text", ["NOPERM this user has no permissions", "ERR unknown command 'FOO'", "ERR wrong number"]
)
def test_what_waiting_cannot_change_does_not_heal(text: str) -> None:
    refusal = read_refusal(refused(text))
    assert not refusal.heals
    assert refusal.hint


def test_the_guilty_commands_are_known_by_their_place() -> None:
    replies = refused("NOPERM", at=2, commands=5)
    replies[4] = hiredis.ReplyError("NOPERM too")
    assert read_refusal(replies).refused == (2, 3)


def test_a_transaction_that_exec_alone_refuses_has_no_guilty_command() -> None:
    refusal = read_refusal([b"OK", QUEUED, hiredis.ReplyError("READONLY You can't write against a read only replica.")])
    assert (refusal.heals, refusal.refused) == (True, ())


def test_no_error_at_all_is_said_so() -> None:
    assert read_refusal([b"OK", QUEUED, b"?"]).text == "no reason given"
