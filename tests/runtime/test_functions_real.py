"""Libraries of functions on a real server: all of them are one place, and which commands about them commute."""

import itertools
from typing import Any

import pytest
import redis

from bisync.core.commands import FUNCTIONS, Args, commute, footprint, normalise
from bisync.testing.samples import SAMPLES
from tests.runtime.command_servers import Server


def library(name: str, *functions: str) -> bytes:
    """The code of a library."""
    calls = "".join(f"redis.register_function('{f}', function() return '{name}' end)\n" for f in functions)
    return f"#!lua name={name}\n{calls}".encode()


A_F, A_G, B_F, B_H = library("a", "f"), library("a", "g"), library("b", "f"), library("b", "h")
DUMPED = next(s.call[2] for s in SAMPLES if s.name == "FUNCTION RESTORE")  # the library `samples`
POOL: list[Args] = [
    *((b"FUNCTION", b"LOAD", b"REPLACE", code) for code in (A_F, A_G, B_F, B_H)),
    *((b"FUNCTION", b"DELETE", name) for name in (b"a", b"b", b"samples")),
    (b"FUNCTION", b"FLUSH"),
    (b"FUNCTION", b"FLUSH", b"ASYNC"),
    (b"FUNCTION", b"RESTORE", DUMPED, b"REPLACE"),
    (b"FUNCTION", b"RESTORE", DUMPED, b"FLUSH"),
]
SAMPLE = library("samples", "samples")
STATES = [[], [A_F], [A_G], [B_H], [A_F, B_H], [A_G, B_F], [A_F, SAMPLE], [B_F, SAMPLE]]


def libraries(server: Server) -> dict[bytes, Any]:
    found = [dict(zip(one[::2], one[1::2], strict=True)) for one in server.dataset()[1]]
    return {one[b"library_name"]: one[b"library_code"] for one in found}


def play(server: Server, state: list[bytes], *calls: Args) -> tuple[list[bool], dict[bytes, Any]]:
    """Which of the calls were refused, and the libraries at the end."""
    server.begin([(b"FUNCTION", b"LOAD", code) for code in state])
    refused = []
    for call in calls:
        try:
            server.client.execute_command(*call)
            refused.append(False)
        except redis.ResponseError:
            refused.append(True)
    return refused, libraries(server)


@pytest.mark.slow
def test_every_claim_about_functions_is_proven(servers: tuple[Server, Server]) -> None:
    proven = set()
    for state in STATES:
        effective = [p for p in POOL if play(servers[0], state, p)[0] == [False]]
        for p, q in itertools.combinations_with_replacement(effective, 2):
            if commute(p, 0, q, 0):
                (failed, one), (failed_too, other) = play(servers[0], state, p, q), play(servers[0], state, q, p)
                assert one == other, (state, p, q)
                twice = p == q and p[1] == b"DELETE"  # the second finds nothing, at both sites
                assert failed == failed_too == [False, twice], (state, p, q)
                proven.add((p, q))
    claimed = {(p, q) for p, q in itertools.combinations_with_replacement(POOL, 2) if commute(p, 0, q, 0)}
    assert claimed - proven == set()
    assert len({(p[1], q[1]) for p, q in proven}) > 4


def test_two_libraries_with_a_function_in_common_are_known_not_to_commute(servers: tuple[Server, Server]) -> None:
    p, q = POOL[0], POOL[2]
    assert play(servers[0], [], p, q) != play(servers[0], [], q, p)
    assert not commute(p, 0, q, 0)


@pytest.mark.parametrize(
    "call", [(b"FUNCTION", b"LOAD", A_F), (b"FUNCTION", b"RESTORE", DUMPED)], ids=["load", "restore"]
)
def test_replay_does_not_fail_where_the_library_is(servers: tuple[Server, Server], call: Args) -> None:
    server = servers[0]
    refused, once = play(server, [], call)
    assert refused == [False]
    again, twice = play(server, [], call, normalise(call))
    assert again == [False, False] and once == twice


def test_what_overwrites_leaves_no_library_of_before(servers: tuple[Server, Server]) -> None:
    for call in POOL:
        (write,) = footprint(call, 0).writes
        assert (write.database, write.key) == FUNCTIONS
        outcomes = [play(servers[0], state, call)[1] for state in STATES]
        assert all(o == outcomes[0] for o in outcomes) == write.overwrites
