"""Real RDB files of real servers, decoded, against what the servers replied. See `making` for how they were made."""

import pytest

from bisync.core.rdb import Aux, End, Value, ValueBegins, ValuePiece
from tests.core.rdb.content import NAMES, compare, expected, keys, read, records, sample

OLD = {0, 2, 4, 11}
TYPES = {
    "redis-2.8.17": OLD | {1, 3, 10, 12, 13},
    "redis-3.2.6": OLD | {3, 12, 13, 14},
    "redis-5.0.6": OLD | {5, 12, 13, 14, 15},
    "redis-6.2.14": OLD | {5, 12, 13, 14, 15},
    "redis-7.0.15": OLD | {5, 16, 17, 18, 19},
    "valkey-8.1.1": OLD | {5, 16, 17, 18, 20, 21},
    "valkey-9.1.2": OLD | {5, 16, 17, 18, 20, 21, 22},
    "redis-8.0.2": OLD | {5, 7, 16, 17, 18, 20, 21, 24, 25},
    "redis-8.2.3": OLD | {5, 7, 16, 17, 18, 20, 21, 24, 25},
    "redis-8.6.2": OLD | {5, 7, 16, 17, 18, 20, 24, 25, 26},
    "redis-8.10.2": OLD | {5, 7, 16, 17, 18, 20, 24, 25, 27, 28, 29, 31},
}
"""By server: every type that it writes."""


def test_the_samples_hold_every_type_of_every_server() -> None:
    assert sorted(TYPES) == NAMES
    for name in NAMES:
        assert {key.type for key in keys(read(sample(name)))} == TYPES[name], name


@pytest.mark.parametrize("name", NAMES)
def test_payloads_decode_to_what_the_server_replied(name: str) -> None:
    items = read(sample(name))
    compare(keys(items), expected(name))
    assert items[-1] == End(checksum_verified=True)
    assert not any(isinstance(i, (ValueBegins, ValuePiece)) for i in items)
    assert name.startswith("redis-2") or any(isinstance(i, Aux) for i in items)


@pytest.mark.parametrize("piece_bytes", [1, 400, 10**9])
@pytest.mark.parametrize("name", NAMES)
def test_values_in_pieces_are_what_the_server_replied(name: str, piece_bytes: int) -> None:
    items = read(sample(name), whole_bytes=0, piece_bytes=piece_bytes)
    compare(keys(items), expected(name))
    assert {i.type for i in items if isinstance(i, Value)} <= {7}
    assert {i.type for i in items if isinstance(i, ValueBegins)} >= {0, 2, 4}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_size_of_what_is_fed_does_not_matter(name: str) -> None:
    data = sample(name)
    for options in ({}, {"whole_bytes": 0, "piece_bytes": 300}, {"whole_bytes": 500, "piece_bytes": 300}):
        whole = read(data, **options)
        for step in (1, 7, 100, 4096):
            assert read(data, step, **options) == whole


def test_only_large_values_come_in_pieces_and_these_are_as_small_as_asked_for() -> None:
    items = read(sample("redis-7.0.15"), whole_bytes=1000, piece_bytes=1000)
    begun = {i.key: i.kind for i in items if isinstance(i, ValueBegins)}
    assert {b"set:large", b"hash:large", b"zset:large", b"stream"} <= begun.keys()
    assert not {b"set:small", b"text:5", b"hash:small"} & begun.keys()
    pieces = [i.elements for i in items if isinstance(i, ValuePiece) and i.kind != "stream"]
    sizes = [sum(64 + (len(e) if isinstance(e, bytes) else len(e[0])) for e in elements) for elements in pieces]
    assert len(sizes) > 10 and max(sizes) < 2 * 1000
    assert sum(isinstance(i, ValuePiece) and i.kind == "stream" for i in items) >= 5
    strings = [i.elements for i in items if isinstance(i, ValuePiece) and i.kind == "string"]
    assert all(len(elements) == 1 for elements in strings)


def test_idempotence_records_come_with_their_producers() -> None:
    for name in ("redis-8.6.2", "redis-8.10.2"):
        [stream] = [k for k in keys(read(sample(name))) if k.key == b"stream:idempotent"]
        assert records(stream.elements)[-1:] == [(b"three", b"third")], name
