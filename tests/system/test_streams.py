"""Streams of two real servers are merged: no entry is lost, groups are the authority's, and it comes to an end."""

import random
from collections.abc import Iterator
from typing import Any

import pytest

from bisync.testing.servers import LocalServer
from tests.system.rounds import Carrier, K, Words, carrier, pair_of_servers
from tests.system.world import held

Servers = dict[str, LocalServer]
SHARED: list[Words] = [("XADD", "k", f"{n}-0", "f", n) for n in range(1, 6)]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    started = pair_of_servers(tmp_path_factory.mktemp("streams"))
    yield started
    for server in started.values():
        server.stop()


@pytest.fixture
def sites(servers: Servers) -> Iterator[Carrier]:
    with carrier(servers) as made:
        for site in made.servers:
            made.run(site, *SHARED)
        yield made


def add(*ids: str) -> list[Words]:
    return [("XADD", "k", name, "f", f"of {name}") for name in ids]


def ids(sites: Carrier, site: str) -> list[str]:
    (entries,) = sites.run(site, ("XRANGE", "k", "-", "+"))
    return [name.decode() for name, _ in entries]  # type: ignore[attr-defined]


def info(sites: Carrier, site: str) -> dict[bytes, Any]:
    (flat,) = sites.run(site, ("XINFO", "STREAM", "k"))
    return dict(zip(flat[::2], flat[1::2], strict=True))  # type: ignore[index]


def rounds(sites: Carrier) -> list[str]:
    """Where the fences were."""
    return [site for site, item in sites.sent if item.kind == "fence"]


@pytest.mark.parametrize(
    ("east", "west", "fences"),
    [
        (["6-0"], [], ["east"]),
        ([], ["6-0"], ["east", "west"]),
        (["6-0", "8-0"], ["7-0", "9-0"], ["east", "west"]),
        (["7-0"], ["6-0"], ["east", "west"]),
        (["6-0"], ["6-0"], ["east"]),
        (["9007199254740992-1"], ["9007199254740993-1"], ["east", "west"]),  # as doubles they would be equal
        (["18446744073709551615-18446744073709551614"], ["9-2", "10-1"], ["east", "west"]),
    ],
)
def test_no_entry_is_lost(sites: Carrier, east: list[str], west: list[str], fences: list[str]) -> None:
    sites.run("east", *add(*east))
    sites.run("west", *add(*west))
    found = sites.settle()
    numbers = {tuple(map(int, name.split("-"))) for name in (*east, *west)}
    assert ids(sites, "west") == [f"{n}-0" for n in range(1, 6)] + [f"{a}-{b}" for a, b in sorted(numbers)]
    assert rounds(sites) == fences
    assert found.replaced is None, "nothing was lost"


def test_what_is_only_new_is_added_and_nothing_rebuilt(sites: Carrier) -> None:
    sites.run("east", *add("6-0", "7-0"))
    before = sites.servers["west"].replication_offset
    sites.settle()
    assert sites.servers["west"].replication_offset - before < 1_000


def test_a_stream_that_is_equal_already_stays_as_it_is(sites: Carrier) -> None:
    groups(sites, "east")
    sites.settle()
    before = held(sites.servers["west"])
    sites.restart()
    offset = sites.servers["west"].replication_offset
    assert sites.settle().replaced is None
    assert sites.servers["west"].replication_offset - offset < 300, "only the note"
    assert held(sites.servers["west"]) == before


def groups(sites: Carrier, site: str) -> None:
    """A group that has read, acknowledged and forgotten, an idle consumer, and pending entries that are gone."""
    sites.run(
        site,
        ("XGROUP", "CREATE", "k", "g", "0"),
        ("XREADGROUP", "GROUP", "g", "c", "COUNT", 4, "STREAMS", "k", ">"),
        ("XREADGROUP", "GROUP", "g", "d", "COUNT", 1, "STREAMS", "k", ">"),
        ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "k", "0"),  # delivered twice
        ("XACK", "k", "g", "2-0"),
        ("XGROUP", "CREATECONSUMER", "k", "g", "idle"),
        ("XGROUP", "CREATE", "k", "at the end", "$"),
    )


@pytest.mark.parametrize("here", ["west", "east"])
def test_groups_are_the_authoritys(sites: Carrier, here: str) -> None:
    groups(sites, here)
    sites.run("west", ("XGROUP", "CREATE", "k", "other", "0"), *add("6-0"))
    before = held(sites.servers["east"])[0, b"k"][1][1][2]
    sites.settle()
    after = held(sites.servers["west"])[0, b"k"][1][1][2]
    assert after == before
    assert (len(after) == 2) == (here == "east")


@pytest.mark.parametrize(
    "gone", [("XTRIM", "k", "MAXLEN", 2), ("XDEL", "k", "1-0", "3-0", "4-0"), ("XTRIM", "k", "MAXLEN", 0)]
)
def test_pending_entries_that_the_stream_holds_no_more_are_copied_too(sites: Carrier, gone: Words) -> None:
    groups(sites, "east")
    sites.run("east", gone)
    sites.run("west", gone)
    sites.settle()
    (pending,) = sites.run("west", ("XPENDING", "k", "g", "-", "+", 10))
    assert [entry[0] for entry in pending] == [b"1-0", b"3-0", b"4-0", b"5-0"]  # type: ignore[index,attr-defined]
    for name in (b"max-deleted-entry-id", b"entries-added", b"last-generated-id", b"length"):
        assert info(sites, "west")[name] == info(sites, "east")[name], name


@pytest.mark.parametrize("authority", ["east", "west"])
def test_a_pending_entry_beyond_the_last_one_makes_no_difference(sites: Carrier, authority: str) -> None:
    """To take it in, the other site deletes an entry that the authority had trimmed, which leaves another number."""
    for site in sites.servers:
        sites.run(site, ("XTRIM", "k", "MAXLEN", 0))
    sites.run(authority, ("XGROUP", "CREATE", "k", "readers", "0"), *add("9-0"))
    sites.run(authority, ("XREADGROUP", "GROUP", "readers", "ann", "STREAMS", "k", ">"), ("XTRIM", "k", "MAXLEN", 0))
    sites.run(authority, ("XSETID", "k", "5-0"), *add("6-0"))
    sites.settle(authority=authority)
    assert held(sites.servers["east"]) == held(sites.servers["west"])


def test_a_stream_without_entries_keeps_its_numbers(sites: Carrier) -> None:
    for site in sites.servers:
        sites.run(site, ("DEL", "k"))
    sites.run("east", ("XGROUP", "CREATE", "k", "g", 0, "MKSTREAM"))
    sites.settle()
    sites.run("east", *add("9-9"), ("XDEL", "k", "9-9"), ("XGROUP", "DESTROY", "k", "g"))
    sites.settle()
    assert info(sites, "west")[b"last-generated-id"] == info(sites, "west")[b"max-deleted-entry-id"] == b"9-9"


def test_an_entry_deleted_at_one_site_alone_comes_back(sites: Carrier) -> None:
    sites.run("west", ("XDEL", "k", "3-0"))
    sites.settle()
    assert "3-0" in ids(sites, "east")


def test_of_two_entries_with_one_id_the_authoritys_stands_and_the_other_is_kept(sites: Carrier) -> None:
    sites.run("east", ("XADD", "k", "6-0", "f", "east"))
    sites.run("west", ("XADD", "k", "6-0", "f", "west", "g", "more"), *add("7-0"))
    (payload,) = sites.run("west", ("DUMP", "k"))
    found = sites.settle()
    (entries,) = sites.run("east", ("XRANGE", "k", "6-0", "6-0"))
    assert entries == [[b"6-0", [b"f", b"east"]]]
    assert found.replaced is not None and found.replaced.value == payload and found.replaced.site == "west"


@pytest.mark.parametrize("there", [("SET", "k", "v"), ("RPUSH", "k", "a"), None])
def test_a_stream_replaces_what_is_none(sites: Carrier, there: Words | None) -> None:
    sites.run("west", ("DEL", "k"), *([there] if there else []))
    groups(sites, "east")
    found = sites.settle()
    assert rounds(sites) == ["east"]
    assert found.replaced is not None and found.replaced.kind == ("dump" if there else "absent")


def test_another_type_replaces_a_stream(sites: Carrier) -> None:
    sites.run("east", ("DEL", "k"), ("SET", "k", "v"))
    (payload,) = sites.run("west", ("DUMP", "k"))
    found = sites.settle()
    assert found.replaced is not None and found.replaced.value == payload


def test_the_time_to_live_is_the_authoritys(sites: Carrier) -> None:
    sites.run("east", ("PEXPIREAT", "k", 4_000_000_000_000), *add("8-0"))
    sites.run("west", ("PEXPIREAT", "k", 3_000_000_000_000), *add("7-0"))
    sites.settle()
    assert sites.run("east", ("PEXPIRETIME", "k")) == [4_000_000_000_000]


def test_a_later_round_takes_what_came_in_between(sites: Carrier) -> None:
    sites.run("west", *add("7-0"))
    found = sites.arbitrate()
    while "restore west" not in sites.kinds():
        sites.step()
    sites.run("east", *add("6-5"))  # a client's; the other site refuses it, as it holds 7-0
    found.dirty = True
    sites.drain()
    sites.assert_equal()
    assert ids(sites, "east")[-2:] == ["6-5", "7-0"]


def test_a_script_that_fails_leaves_what_was_there(sites: Carrier) -> None:
    groups(sites, "west")
    sites.run("east", *add("6-0"))
    sites.run("west", *add("7-0"), ("PEXPIREAT", "k", 4_000_000_000_000))
    before = held(sites.servers["west"])
    with sites.servers["west"].client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-xsetid")
        found = sites.arbitrate()
        sites.drain()
        client.execute_command("ACL", "SETUSER", "default", "+@all")
    assert "can't run this command" in found.stuck
    assert held(sites.servers["west"]) == before


def test_an_entry_with_more_fields_than_a_script_can_add_is_put_off(sites: Carrier) -> None:
    sites.run("east", ("XADD", "k", "6-0", *range(8_000)))
    found = sites.arbitrate()
    sites.drain()
    assert "4000 fields" in found.stuck


@pytest.mark.slow
def test_a_long_stream_is_merged(servers: Servers) -> None:
    with carrier(servers, rebuild_bytes=1 << 20) as sites:
        for n in range(0, 40_000, 1_000):
            words: list[Words] = [("XADD", "k", f"{m}-0", "f", b"v" * 100) for m in range(n + 1, n + 1_001)]
            sites.run("east", *(w for m, w in enumerate(words) if m % 3))
            sites.run("west", *(w for m, w in enumerate(words) if m % 2))
        sites.settle()
        assert sites.run("west", ("XLEN", "k")) == [33_320]
        assert b"DUMP" not in sites.names("restore")


def history(draw: random.Random, site: int) -> Iterator[Words]:
    """What a site's clients do to a stream that both had; explicit ids, so that every run is the same."""
    last = 5
    for _ in range(draw.randrange(8)):
        last += draw.randrange(1, 3)
        yield draw.choice(
            [
                ("XADD", "k", f"{last}-{site}", "f", "v"),
                ("XADD", "k", f"{last}-{site}", "f", "v"),
                ("XADD", "k", f"{last}-0", "f", site),
                ("XADD", "k", "MAXLEN", draw.randrange(6), f"{last}-{site}", "f", "v"),
                ("XDEL", "k", f"{draw.randrange(1, 9)}-0"),
                ("XTRIM", "k", "MINID", draw.randrange(9)),
                ("XGROUP", "CREATE", "k", draw.choice("gh"), draw.randrange(9)),
                ("XGROUP", "DESTROY", "k", draw.choice("gh")),
                ("XREADGROUP", "GROUP", draw.choice("gh"), draw.choice("cd"), "COUNT", 2, "STREAMS", "k", ">"),
                ("XACK", "k", "g", f"{draw.randrange(1, 9)}-0"),
                ("XCLAIM", "k", "g", "e", 0, f"{draw.randrange(1, 9)}-0"),
                ("XSETID", "k", draw.choice(["6-0", "99-0"])),
                ("DEL", "k"),
            ]
        )


@pytest.mark.slow
@pytest.mark.parametrize("authority", ["east", "west"])
def test_whatever_was_done_both_are_equal_in_the_end(servers: Servers, authority: str) -> None:
    with carrier(servers) as sites:
        for seed in range(300):
            draw = random.Random(f"{authority} {seed}")
            for n, site in enumerate(sites.servers):
                sites.run(site, ("DEL", "k"), *SHARED, *history(draw, n))
            both = {name for site in sites.servers for name in ids(sites, site)}
            absent = sites.run(authority, ("EXISTS", "k")) == [0]
            sites.settle(K, authority)
            assert set(ids(sites, authority)) == (set() if absent else both), seed
            assert len(rounds(sites)) <= 2, seed
            sites.restart()
