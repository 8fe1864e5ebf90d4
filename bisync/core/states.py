"""The states of a job, as one table: what each means and which may follow it.

The picture in the docs is drawn from this table, `bisync status` shows its words, and others script against the
names: changing one is a breaking change. An engine may be killed in any state and the next one begins with its checks,
so `prechecking` may follow every state.
"""

import attrs

NOT_STARTED = "not-started"
PRECHECKING = "prechecking"
PRECHECK_FAILED = "precheck-failed"
INITIALIZING = "initializing"
INITIALIZE_FAILED = "initialize-failed"
SYNCHRONIZING = "synchronizing"
SUSPENDED = "suspended"
FAILED = "failed"


@attrs.frozen
class State:
    """One row of the table."""

    name: str  # as shown to people and in JSON
    meaning: str  # one line for the docs and the help
    following: tuple[str, ...]  # names of the states that may come next; staying in a state is always allowed
    running: bool = False  # true only while an engine is at work: without one the job is suspended


TABLE: tuple[State, ...] = (
    State(NOT_STARTED, "nothing has been done yet, or the job was reset", (PRECHECKING, INITIALIZING)),
    State(
        PRECHECKING,
        "both sites are being checked; nothing is written",
        (PRECHECK_FAILED, INITIALIZING, SYNCHRONIZING, SUSPENDED, FAILED),
        running=True,
    ),
    State(PRECHECK_FAILED, "a check failed; nothing was written", (NOT_STARTED, PRECHECKING)),
    State(
        INITIALIZING,
        "the full copy is under way, or the sites are being reconciled",
        (PRECHECKING, INITIALIZE_FAILED, SYNCHRONIZING, SUSPENDED),
        running=True,
    ),
    State(
        INITIALIZE_FAILED,
        "the full copy ended with an error; it begins again at the next start",
        (NOT_STARTED, PRECHECKING, INITIALIZING),
    ),
    State(
        SYNCHRONIZING,
        "the full copy is done and each channel follows its source",
        (PRECHECKING, INITIALIZING, SUSPENDED, FAILED),
        running=True,
    ),
    State(
        SUSPENDED,
        "nothing is applied at the moment: stopped, or waiting for something that can heal; it can go on without loss",
        (NOT_STARTED, PRECHECKING, INITIALIZING, SYNCHRONIZING, FAILED),
    ),
    State(
        FAILED,
        "stopped with an error that does not heal by itself; the reason says what to do",
        (NOT_STARTED, PRECHECKING, INITIALIZING, SYNCHRONIZING),
    ),
)
"""All states, in the order in which a job meets them."""

STATES: tuple[str, ...] = tuple(s.name for s in TABLE)
"""The names of all states."""

RUNNING: frozenset[str] = frozenset(s.name for s in TABLE if s.running)
"""The states that can only be true while an engine runs."""

_BY_NAME = {s.name: s for s in TABLE}


def state_named(name: str) -> State:
    """The row of a state. Raises ValueError, with the known names, for any other name."""
    found = _BY_NAME.get(name)
    if found is None:
        raise ValueError(f"{name!r} is no state of a job; the states are {', '.join(STATES)}")
    return found


def may_follow(before: str, after: str) -> bool:
    """May a job that is in state `before` enter `after`? Raises ValueError where one of them is no state."""
    return state_named(after).name in (before, *state_named(before).following)
