"""What a DUMP payload holds, in words: of a real server's values in each encoding, and of damaged ones."""

import pathlib
import random
from collections.abc import Iterator

import pytest

from bisync.contents import ELEMENTS_SHOWN, contents
from bisync.testing.servers import LocalServer, local_servers
from bisync.text import SHOWN_MAX


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with local_servers(pathlib.Path(tmp_path_factory.mktemp("contents")), "one") as (one,):
        yield one


def dumped(server: LocalServer, *commands: tuple[object, ...]) -> bytes:
    with server.client() as client:
        client.delete("k")
        for name, *words in commands:
            client.execute_command(name, "k", *words)
        payload = client.dump("k")
    assert isinstance(payload, bytes)
    return payload


LONG = "y" * 100  # beyond what a listpack or an intset holds


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (("SET", "plain"), "plain"),
        (("SET", "-7"), "-7"),
        (("SET", "40000"), "40000"),
        (("SET", "-2000000000"), "-2000000000"),
        (("SET", b"\xff\x1b"), r"\xff\x1b"),
        (("SET", "ab" * 60), "ab" * 60),  # compressed
        (
            ("RPUSH", "a", "1", "-5000", "70000", "-9000000000", "5" * 30),
            "list of 6: a, 1, -5000, 70000, -9000000000, 5",
        ),
        (("RPUSH", "x" * 100, "z" * 5_000), "list of 2: " + "x" * 100 + ", " + "z" * SHOWN_MAX + "… (5,000 bytes)"),
        (("SADD", "3", "-1", "100000"), "set of 3: -1, 3, 100000"),
        (("SADD", "9999999999"), "set of 1: 9999999999"),
        (("SADD", LONG), f"set of 1: {LONG}"),
        (("HSET", "f", "v", "g", "12"), "hash of 2: f: v, g: 12"),
        (("HSET", "f", LONG), f"hash of 1: f: {LONG}"),
        (("ZADD", "1.5", "a", "2", "b"), "sorted set of 2: a: 1.5, b: 2"),
        (("ZADD", "1.5", LONG), f"sorted set of 1: {LONG}: 1.5"),
        (("XADD", "1-1", "f", "v"), "a stream, "),
        (("PFADD", "a"), "HYLL"),
    ],
)
def test_values_of_a_real_server(server: LocalServer, command: tuple[object, ...], text: str) -> None:
    assert contents(dumped(server, command)).startswith(text)


@pytest.mark.parametrize("size", [12, 13, 14, 16, 20, 24, 31, 32, 40, 47, 63])
def test_numbers_of_every_width(server: LocalServer, size: int) -> None:
    numbers = [sign * (1 << size) + n for sign in (1, -1) for n in (-1, 0, 1)]
    expected = ", ".join(map(str, numbers))
    if size < 63:
        assert contents(dumped(server, ("RPUSH", *numbers))) == f"list of 6: {expected}"
        assert contents(dumped(server, ("SADD", *numbers))) == f"set of 6: {', '.join(map(str, sorted(numbers)))}"
    else:
        assert contents(dumped(server, ("RPUSH", *numbers))).startswith(
            "list of 6: 9223372036854775807, 92233720368547758"
        )


def test_of_many_elements_the_first_are_shown(server: LocalServer) -> None:
    for count in (100, 3_000):
        text = contents(dumped(server, ("RPUSH", *range(count))))
        first = ", ".join(map(str, range(ELEMENTS_SHOWN)))
        assert text == f"list of {count:,}: {first}, and {count - ELEMENTS_SHOWN:,} more"


def test_damaged_payloads_are_described_and_cost_nothing(server: LocalServer) -> None:
    dice = random.Random(1)
    whole = [
        dumped(server, ("RPUSH", *range(300), "x" * 300)),
        dumped(server, ("SADD", *range(300))),
        dumped(server, ("HSET", "f", "v", "g", "ab" * 60)),
        dumped(server, ("ZADD", "1", "a" * 100, "2", "b")),
    ]
    for payload in whole:
        for _ in range(300):
            broken = bytearray(payload)
            for _ in range(dice.randrange(1, 5)):
                broken[dice.randrange(len(broken))] = dice.randrange(256)
            text = contents(bytes(broken[: dice.randrange(len(broken) + 1)]))
            assert text.isprintable() and len(text) < 30 * SHOWN_MAX
    assert contents(b"") == "a value of 0 bytes, as DUMP gives it"


def test_a_huge_claim_is_not_believed() -> None:
    footer = bytes(10)
    for kind in (2, 4, 5, 11, 18):
        claim = bytes((kind, 0x81)) + b"\x7f" * 8 + footer
        assert "as DUMP gives it" in contents(claim)
    intset = (4).to_bytes(4, "little") + (1 << 30).to_bytes(4, "little")
    assert "as DUMP gives it" in contents(bytes((11, len(intset))) + intset + footer)
