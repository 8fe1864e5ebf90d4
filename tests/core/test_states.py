"""The table of a job's states."""

import pytest

from bisync.core import states


def reachable(start: str) -> set[str]:
    """All states that can be entered from `start` by one or more steps."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        for name in states.state_named(todo.pop()).following:
            if name not in seen:
                seen.add(name)
                todo.append(name)
    return seen


def test_the_names_are_the_ones_that_others_script_against() -> None:
    assert states.STATES == tuple(
        "not-started prechecking precheck-failed initializing initialize-failed synchronizing suspended failed".split()
    )


def test_every_state_that_follows_another_is_in_the_table() -> None:
    for state in states.TABLE:
        assert set(state.following) <= set(states.STATES), state.name
        assert state.name not in state.following, "staying is always allowed and needs no entry"


def test_every_meaning_is_one_line() -> None:
    for state in states.TABLE:
        assert state.meaning and "\n" not in state.meaning and len(state.meaning) <= 120


@pytest.mark.parametrize("name", states.STATES)
def test_no_state_is_a_dead_end(name: str) -> None:
    assert states.SYNCHRONIZING in reachable(name)


def test_every_state_can_be_reached_from_the_first() -> None:
    assert reachable(states.NOT_STARTED) == set(states.STATES)


@pytest.mark.parametrize("name", states.STATES)
def test_a_new_engine_may_begin_with_its_checks_whatever_the_last_one_left(name: str) -> None:
    assert states.may_follow(name, states.PRECHECKING)


def test_a_failure_before_anything_was_copied_does_not_become_a_success_by_itself() -> None:
    assert not states.may_follow(states.PRECHECK_FAILED, states.SYNCHRONIZING)
    assert not states.may_follow(states.NOT_STARTED, states.SYNCHRONIZING)


def test_staying_in_a_state_is_allowed() -> None:
    assert all(states.may_follow(name, name) for name in states.STATES)


def test_only_these_states_need_a_running_engine() -> None:
    assert states.RUNNING == {"prechecking", "initializing", "synchronizing"}


@pytest.mark.parametrize("pair", [("paused", "failed"), ("failed", "paused")])
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(pair: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="'paused' is no state of a job; the states are not-started, prechecking"):
        states.may_follow(*pair)
