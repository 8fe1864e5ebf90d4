"""Every claim of `commute` and of the footprints, proven on a real server.

Two commands are run in both orders, from states of all types, each time that both would take effect alone. Which pairs
of commands were proven is counted: a claim that no state reaches fails the test.
"""

import collections
import itertools
from collections.abc import Iterator

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bisync.core.commands import (
    ROWS,
    Args,
    Row,
    Write,
    absolute_expiry,
    commute,
    footprint,
    known_row,
    normalise,
    row,
    same_place,
)
from bisync.core.commands.kinship import LOOK, relation
from bisync.testing.samples import SAMPLES
from tests.command_pool import any_call, calls, pooled_rows, states
from tests.conftest import PROFILE
from tests.runtime.command_servers import Dataset, Server, changes, covers, play, unit

NO_DATA = {b"PUBLISH", b"SPUBLISH", b"SCRIPT", b"FUNCTION"}  # the last has tests of its own
NO_CLAIM = {b"EVAL", b"EVALSHA"}  # any of its keys, from any of them
MOST = {"fast": 1, "ci": 2}.get(PROFILE, 1_000_000)  # pairs of commands, for each pair of rows and each state
Pair = tuple[bytes, bytes]


def names(p: Args, q: Args) -> Pair:
    one, other = sorted((known_row(p[0]).name, known_row(q[0]).name))
    return one, other


def wholes(call: Args) -> list[Write]:
    """The keys that it writes; a key of which it writes an element too."""
    return [attrs.evolve(write, element=None) for write in footprint(call, 0).writes]


def meet(p: Args, q: Args) -> bool:
    """Do both write a key? (What touches no key in common is not worth a proof.)"""
    return any(same_place(a, b) for a in wholes(p) for b in wholes(q))


def effective(server: Server, state: list[Args], found: list[Args]) -> list[Args]:
    """Those of the commands that alone would be run after the state, and sent to replicas."""
    before, *played = play(server, [state, *([*state, call] for call in found)], measured=True)
    changed = [p.effect or p.data != before.data for p in played]  # a module's command is not counted at once
    done = [e and len(state) + 1 not in p.failed for e, p in zip(changed, played, strict=True)]
    return list(itertools.compress(found, done))


def unequal(server: Server, state: list[Args], pairs: list[tuple[Args, Args]]) -> list[tuple[Args, Args]]:
    """Those of the pairs that end in different data in the two orders, or of which one fails."""
    orders = [[*state, *order] for p, q in pairs for order in ((p, q), (q, p))]
    played = play(server, orders)
    found = []
    for n, pair in enumerate(pairs):
        one, other = played[2 * n : 2 * n + 2]
        if one.data != other.data or any(at > len(state) for at in (*one.failed, *other.failed)):
            found.append(pair)
    return found


def claimed(found: list[Args]) -> set[Pair]:
    """The pairs of commands of which `commute` says for some arguments that they may share a key."""
    pairs = itertools.combinations_with_replacement(found, 2)
    return {names(p, q) for p, q in pairs if meet(p, q) and commute(p, 0, q, 0)}


def arriving_rows(known: set[bytes]) -> list[Row]:
    """The rows of commands that a server knows and that can be compared, in their unconditional forms."""
    forms = {normalise(absolute_expiry(s.call, 0))[0] for s in SAMPLES if s.call and s.call[0].lower() in known}
    found = [row_ for form in forms if (row_ := row(form)) is not None]
    return [r for r in dict.fromkeys(found) if r.handling != "refused" and r.name not in NO_DATA | NO_CLAIM]


def test_pool_has_every_command(servers: tuple[Server, Server]) -> None:
    known = servers[0].known
    assert {r.name for r in arriving_rows(known)} - pooled_rows(known) == set()
    assert {r.name for r in ROWS if r.family == "control"} & pooled_rows(known) == set()


@pytest.mark.slow
def test_every_claim_is_proven(servers: tuple[Server, Server]) -> None:
    server, pool = servers[0], calls(servers[0].known)
    proven: collections.Counter[Pair] = collections.Counter()
    for state in states(server.known):
        pairs = list(pairs_that_commute(effective(server, state, pool)))
        assert unequal(server, state, pairs) == [], state
        proven.update(names(p, q) for p, q in pairs)
    rows = arriving_rows(server.known)
    related = itertools.combinations_with_replacement(rows, 2)
    always = {names((p.name,), (q.name,)) for p, q in related if "-" not in (p.keys, q.keys) and relation(p, q) != LOOK}
    assert always - proven.keys() == set()
    assert claimed(pool) - proven.keys() == set()


def pairs_that_commute(found: list[Args]) -> Iterator[tuple[Args, Args]]:
    """Of commands that take effect; of each pair of rows a few, the equal ones and the different ones by turns."""
    taken: collections.Counter[tuple[Pair, bool]] = collections.Counter()
    for p, q in itertools.combinations_with_replacement(found, 2):
        if meet(p, q) and commute(p, 0, q, 0):
            kind = names(p, q), p == q
            taken[kind] += 1
            if taken[kind] <= MOST:
                yield p, q


def any_state(data: st.DataObject, server: Server) -> list[Args]:
    """A state of the list, and some commands after it, which may fail."""
    return data.draw(st.sampled_from(states(server.known))) + data.draw(st.lists(any_call(server.known), max_size=4))


@pytest.mark.slow
@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_commands_that_commute_do_so_from_any_state(servers: tuple[Server, Server], data: st.DataObject) -> None:
    server, state = servers[0], any_state(data, servers[0])
    drawn = data.draw(st.lists(any_call(server.known), min_size=6, max_size=14, unique=True))
    found = effective(server, state, drawn)
    pairs = itertools.combinations_with_replacement(found, 2)
    assert unequal(server, state, [(p, q) for p, q in pairs if meet(p, q) and commute(p, 0, q, 0)]) == []


# -- footprints
@pytest.mark.slow
@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_command_writes_outside_of_its_footprint(servers: tuple[Server, Server], data: st.DataObject) -> None:
    server, state = servers[0], any_state(data, servers[0])
    drawn = data.draw(st.lists(any_call(server.known), min_size=10, max_size=20, unique=True))
    before = play(server, [state])[0].data
    for call, after in zip(drawn, play(server, [[*state, call] for call in drawn]), strict=True):
        assert outside(call, before, after.data) == [], (state, call)


def outside(call: Args, before: Dataset, after: Dataset) -> list[Write]:
    """What the command changed, and its footprint does not tell."""
    writes = footprint(call, 0).writes
    changed = [c for place in before.keys() | after.keys() for c in changes(place, before, after)]
    return [c for c in changed if not any(covers(w, c) for w in writes)]


@pytest.mark.slow
def test_what_overwrites_does_not_depend_on_what_was_there(servers: tuple[Server, Server]) -> None:
    server = servers[0]
    for call in calls(server.known, most=2):
        check_overwriting(server, call, states(server.known))


@pytest.mark.slow
@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_overwrites_does_so_from_any_state(servers: tuple[Server, Server], data: st.DataObject) -> None:
    server = servers[0]
    check_overwriting(server, data.draw(any_call(server.known)), [any_state(data, server) for _ in range(4)])


def check_overwriting(server: Server, call: Args, before: list[list[Args]]) -> None:
    """Wherever the command takes effect, the places that it overwrites end alike."""
    writes = [w for w in footprint(call, 0).writes if w.overwrites]
    played = play(server, [[*state, call] for state in before] if writes else [], measured=True)
    done = [p for p, state in zip(played, before, strict=bool(writes)) if p.effect and len(state) + 1 not in p.failed]
    for write in writes:
        outcomes = [unit(write, p.data) for p in done]
        assert all(o == outcomes[0] for o in outcomes), (call, write)


# -- what is known not to commute
def test_element_added_beside_a_last_one_removed_is_known_not_to_commute(servers: tuple[Server, Server]) -> None:
    state: list[Args] = [(b"SADD", b"k", b"a"), (b"PEXPIRE", b"k", b"9999999")]
    add, remove = (b"SADD", b"k", b"b"), (b"SREM", b"k", b"a")
    assert unequal(servers[0], state, [(add, remove)])
    assert not commute(add, 0, remove, 0)
    assert not any(
        same_place(a, b) for a, b in itertools.product(footprint(add, 0).writes, footprint(remove, 0).writes)
    )


def test_order_of_pfadd_shows_in_the_bytes(servers: tuple[Server, Server]) -> None:
    """The same registers, but runs of equal ones are cut at other places: so two PFADD are not said to commute."""
    elements = (b"e60419", b"e78824", b"e4941", b"e42410", b"e70937", b"e75856")
    state: list[Args] = [(b"PFADD", b"k", e) for e in elements]
    p, q = (b"PFADD", b"k", b"e63695"), (b"PFADD", b"k", b"e44468")
    assert unequal(servers[0], state, [(p, q)])
    assert not commute(p, 0, q, 0)
