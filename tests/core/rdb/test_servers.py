"""The RDB reader against every server that is there: its own data, and the data of all others restored into it."""

import pathlib
from collections.abc import Iterator

import pytest
import redis

from bisync.core.rdb import Function, StreamEntry, String, Value, ValueBegins, decode_payload, dump_payload
from bisync.testing.servers import LocalServer, kept_servers
from tests.core.rdb.content import FORMS, NAMES, compare, keys, read, sample, stream_id
from tests.core.rdb.made_by_hand import OLD_FORMS, rdb
from tests.core.rdb.making import Making, fill, replies, snapshot, text

ROOT = pathlib.Path(__file__).parents[3]
PROGRAMS = kept_servers(ROOT / ".servers")
pytestmark = pytest.mark.slow


def rdb_version(data: bytes) -> int:
    """From the header."""
    return int(data[6:9])


@pytest.fixture(params=NAMES)
def making(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Making]:
    """A server of each version, empty."""
    name = request.param
    if name not in PROGRAMS:
        pytest.skip(f"no {name} in .servers: deploy/get-servers fetches the servers that the tests know")
    server = LocalServer(tmp_path / name, program=PROGRAMS[name]).start()
    try:
        yield Making(server)
    finally:
        server.stop()


def write_large(making: Making) -> None:
    """Values with far more elements than packs may have, and of the usual settings."""
    making.raw("SELECT", 0)
    numbers = range(3000)
    making.do("RPUSH large:list", *(f"item {n}" * (n % 17) for n in numbers))
    making.do("SADD large:set", *numbers)
    making.do("SADD large:words", *(f"word {n}" for n in numbers))
    making.do("HMSET large:hash", *(part for n in numbers for part in (f"field {n}", "v" * (n % 200))))
    making.do("ZADD large:zset", *(part for n in numbers for part in (n / 7, f"member {n}")))
    making.do("SET large:string", "0123456789" * 30_000)
    making.do("SETBIT large:bits 2000000 1")
    for n in range(300):
        making.do("XADD large:stream", f"{n + 1}-1", "field", n, "other", "x" * n)
    making.do("XGROUP CREATE large:stream readers 0")
    making.do("XREADGROUP GROUP readers me COUNT 250 STREAMS large:stream >")


def test_all_data_of_a_server_is_decoded_to_what_it_replies(making: Making) -> None:
    fill(making)
    write_large(making)
    told, data = replies(making), snapshot(making)
    assert len(told) >= 80
    for options in ({}, {"whole_bytes": 0}, {"whole_bytes": 2000, "piece_bytes": 5000}):
        for step in (1 << 20, 1500):
            compare(keys(read(data, step, **options)), told)


def test_payloads_are_what_dump_replies_and_dump_is_decoded(making: Making) -> None:
    fill(making)
    told, data = replies(making), snapshot(making)
    dumped = {}
    for item in read(data):
        if isinstance(item, Value):
            making.raw("SELECT", item.database)
            dumped[f"{item.database} {text(item.key)}"] = making.raw("DUMP", item.key), item
    for name, (payload, item) in dumped.items():
        decoded = decode_payload(payload)
        told_content, content = FORMS[decoded.kind](told[name][2], list(decoded.elements))
        assert (name, content) == (name, told_content)
        # A hash with a template has its field names in another form, and a stream notes times of its own.
        if item.type not in (26, 27, 29, 31):
            assert (name, payload) == (name, item.payload)


def knows(target: int, source: int, type: int) -> bool:
    """Does the target know a type of the source's? By RDB versions, told apart from the code that is tested."""
    if source < 80 <= target or target < 80 <= source:
        return type <= 21 and knows(min(target, 11), 11, type)
    since = {5: 8, 7: 8, 14: 7, 15: 9, 16: 10, 17: 10, 18: 10, 19: 10, 20: 11, 21: 11, 22: 80, 24: 12, 25: 12}
    newer = {26: 13, 27: 14, 28: 14, 29: 15, 31: 15}
    return (since | newer).get(type, 0) <= target


def test_values_of_all_other_servers_are_restored_under_this_ones_version(making: Making) -> None:
    restored, own_name = 0, pathlib.Path(making.server.program).parent.name
    target = rdb_version(sample(own_name))
    for name in NAMES:
        data = sample(name)
        making.raw("FLUSHALL")
        items = read(data, payload_version=target)
        for item in items:
            # A module has versions of its own format, which RDB versions know nothing of.
            if isinstance(item, Value) and (item.type != 7 or name == own_name):
                making.raw("SELECT", item.database)
                try:
                    making.raw("RESTORE", item.key, 0, item.payload)
                except redis.ResponseError as e:
                    raise AssertionError(f"{name}: {item}: {e}") from e
                restored += 1
        types = {i.type for i in items if isinstance(i, Value)} - {7}
        assert types == {t for t in by_type(name) if knows(target, rdb_version(data), t)} - {7}, name
        begun = {{30: 29, 32: 31}.get(i.type, i.type) for i in items if isinstance(i, ValueBegins)}
        assert begun == by_type(name) - types - {7}, name
        told = replies(making)
        for key in keys(items):
            found = told.pop(f"{key.database} {text(key.key)}", None)
            if found is not None and key.kind == "stream":
                entries = [[stream_id(e.id), text(e.fields)] for e in key.elements if isinstance(e, StreamEntry)]
                assert (name, entries) == (name, found[2][0])  # what it says of itself differs by version
            elif found is not None:
                told_content, content = FORMS[key.kind](found[2], key.elements)
                assert (name, key.key, content) == (name, key.key, told_content)
        assert not told
    assert restored > 200


def by_type(name: str) -> set[int]:
    """The types of all values that the sample holds as such."""
    return {i.type for i in read(sample(name)) if isinstance(i, Value)}


def test_old_forms_made_by_hand_are_what_servers_take_them_for(making: Making) -> None:
    """Forms that no server at hand writes. A server that still reads them must see in them what the decoder does."""
    own = rdb_version(sample(pathlib.Path(making.server.program).parent.name))
    for name, form in OLD_FORMS.items():
        if not form.oldest <= own <= form.newest:
            continue
        making.raw("SELECT", 0)
        making.raw("RESTORE", name, 0, dump_payload(form.type, form.body, form.oldest))
    told = replies(making)
    items = read(rdb(*(bytes([f.type]) + bytes([len(n)]) + n.encode() + f.body for n, f in OLD_FORMS.items())))
    compare((k for k in keys(items) if f"0 {text(k.key)}" in told), told)
    assert told or own >= 80


def test_functions_and_strings_are_handed_out_as_they_are(making: Making) -> None:
    fill(making)
    items = read(snapshot(making))
    strings = {i.key for i in items if isinstance(i, String)}
    assert {b"number:0", b"text:5", b"expires", b"12345"} <= strings
    libraries = [i.payload for i in items if isinstance(i, Function)]
    assert len(libraries) == ("FUNCTION" in making.known)
    for library in libraries:
        with pytest.raises(redis.ResponseError, match="already exists"):
            making.raw("FUNCTION", "LOAD", library)
