"""The command table against a real server: its command list, its replication stream, and what commands do there."""

import itertools
import pathlib
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import hiredis
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bisync.core.commands import Args, Write, absolute_expiry, commute, footprint, known_row, normalise, row, same_place
from bisync.testing.samples import MOMENT_MS, SAMPLES, Sample, unknown_to
from bisync.testing.servers import LocalServer, local_servers

CALLABLE = [s for s in SAMPLES if s.call]
WITHOUT_THE_FLAG = "PFCOUNT PUBLISH SPUBLISH SELECT MULTI EXEC PING REPLCONF SCRIPT EVAL EVALSHA"
DATABASES = (b"0", b"3")
EACH_SAMPLE = pytest.mark.parametrize(
    "sample", CALLABLE, ids=lambda s: b" ".join(s.call)[:40].decode("latin-1"), indirect=True
)

# Everything that two servers must agree on, without the times at which a group's entries were delivered.
SNAPSHOT = b"""
local out = {}
for _, db in ipairs(ARGV) do
  redis.call('SELECT', db)
  for _, k in ipairs(redis.call('KEYS', '*')) do
    local t, v = redis.call('TYPE', k).ok, nil
    if t == 'string' then v = {redis.call('GET', k)}
    elseif t == 'list' then v = redis.call('LRANGE', k, 0, -1)
    elseif t == 'hash' then
      v = redis.call('HGETALL', k)
      for n = 1, #v, 2 do -- servers before 7.4 have no expiries of fields
        local at = redis.pcall('HPEXPIRETIME', k, 'FIELDS', 1, v[n])
        v[n + 1] = {v[n + 1], at.err and -1 or at[1]}
      end
    elseif t == 'set' then v = redis.call('SMEMBERS', k)
    elseif t == 'zset' then v = redis.call('ZRANGE', k, 0, -1, 'WITHSCORES')
    elseif t == 'vectorset' then
      v = redis.call('VRANDMEMBER', k, 1000)
      table.sort(v)
      for n, e in ipairs(v) do v[n] = {e, redis.call('VEMB', k, e), redis.call('VGETATTR', k, e)} end
    else v = {redis.call('XRANGE', k, '-', '+'), redis.call('XINFO', 'STREAM', k, 'FULL')} end
    out[#out + 1] = {db, k, t, v, redis.call('PEXPIRETIME', k)}
  end
end
return out
"""
Dataset = dict[tuple[int, bytes], tuple[bytes, Any, int]]


def as_dataset(reply: Sequence[Any]) -> Dataset:
    return {(int(db), k): (t, VALUES.get(t, tuple)(v), ttl) for db, k, t, v, ttl in reply}


def pairs(flat: Sequence[Any]) -> dict[Any, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def stream_value(value: Sequence[Any]) -> Any:
    """Without a group's count of entries read: 7.0 does not send that to its own replicas either."""
    entries, info = value[0], pairs(value[1])
    groups = []
    for group in map(pairs, info[b"groups"]):
        consumers = {pairs(c)[b"name"] for c in group[b"consumers"]}
        pel = [(entry, consumer) for entry, consumer, _, _ in group[b"pending"]]
        groups.append((group[b"name"], group[b"last-delivered-id"], pel, consumers))
    return entries, info[b"last-generated-id"], info[b"max-deleted-entry-id"], groups


VALUES: dict[bytes, Any] = {
    b"hash": lambda flat: {field: tuple(held) for field, held in pairs(flat).items()},  # its value and its expiry
    b"set": lambda v: dict.fromkeys(v, True),
    b"zset": pairs,
    b"stream": stream_value,
}


class Server:
    """A server that is emptied again and again."""

    def __init__(self, local: LocalServer) -> None:
        self.client, self.local = local.client(), local
        self.known: set[bytes] = set()  # its commands

    def begin(self, setup: Sequence[Args]) -> None:
        self.client.execute_command("SELECT", 0)
        self.client.execute_command("FLUSHALL")
        self.client.execute_command("FUNCTION", "FLUSH")
        self.run(setup)

    def run(self, commands: Sequence[Args]) -> None:
        for command in commands:
            self.client.execute_command(*command)

    def dataset(self) -> tuple[Dataset, Any]:
        reply = self.client.execute_command("EVAL", SNAPSHOT, 0, *DATABASES)
        self.client.execute_command("SELECT", 0)
        return as_dataset(reply), self.client.execute_command("FUNCTION", "LIST", "WITHCODE")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    folder: pathlib.Path = tmp_path_factory.mktemp("commands")
    # one connection each, so that SELECT means something
    with local_servers(folder, "one", "two", options=("--repl-timeout", "3600")) as (one, two):  # see Stream
        pair = Server(one), Server(two)
        for server in pair:
            server.client = redis.Redis(port=server.local.port, protocol=2, single_connection_client=True)
            server.client.response_callbacks.clear()  # replies as they are
            server.known = {name.lower() for name in server.client.execute_command("COMMAND", "LIST")}
        yield pair
        for server in pair:
            server.client.close()


@pytest.fixture
def sample(request: pytest.FixtureRequest, servers: tuple[Server, Server]) -> Sample:
    """The sample, where the server has its commands; else the test is skipped, and says so."""
    chosen: Sample = request.param
    if unknown_to(servers[0].known, chosen):
        pytest.skip(f"this server does not know {', '.join(unknown_to(servers[0].known, *SAMPLES))}")
    return chosen


class Stream:
    """What a server sends to its replicas, read as one of them. It acknowledges nothing: mind repl-timeout."""

    def __init__(self, local: LocalServer) -> None:
        self.socket = socket.create_connection(("127.0.0.1", local.port), timeout=20)
        self.file = self.socket.makefile("rb")
        self.reader = hiredis.Reader()
        self.socket.sendall(b"PSYNC ? -1\r\n")
        while not (line := self.file.readline()).startswith(b"$"):
            pass
        self.file.read(int(line[1:]))

    def until(self, marker: bytes) -> list[Args]:
        """The commands before the message `marker` to a channel of our own."""
        commands: list[Args] = []
        while True:
            while (command := self.reader.gets()) is not False:
                if command == [b"PUBLISH", b"marker", marker]:
                    return commands
                commands.append(tuple(command))
            data = self.file.read1()  # type: ignore[attr-defined]
            assert data, "the server ended the replication"
            self.reader.feed(data)

    def close(self) -> None:
        self.file.close()
        self.socket.close()


@pytest.fixture(scope="module")
def stream(servers: tuple[Server, Server]) -> Iterator[Stream]:
    opened = Stream(servers[0].local)
    yield opened
    opened.close()


# -- the server's own command list
def commands_that_write(client: "redis.Redis") -> Iterator[str]:
    for entry in client.execute_command("COMMAND"):
        for name, flags in [(entry[0], entry[2]), *((sub[0], sub[2]) for sub in entry[9])]:
            if b"write" in flags or b"may_replicate" in flags:
                yield name.decode().upper().replace("|", " ")


def test_every_command_that_can_be_in_a_stream_has_a_row(servers: tuple[Server, Server]) -> None:
    names = {n.split()[0] for n in commands_that_write(servers[0].client)} | set(WITHOUT_THE_FLAG.split())
    assert len(names) > 110
    assert [n for n in sorted(names) if row(n.encode()) is None] == []


def test_every_write_command_has_a_sample(servers: tuple[Server, Server]) -> None:
    assert set(commands_that_write(servers[0].client)) - {s.name for s in SAMPLES} == set()
    assert all(s.call or s.reason for s in SAMPLES)


@EACH_SAMPLE
def test_keys_are_where_the_server_finds_them(servers: tuple[Server, Server], sample: Sample) -> None:
    try:
        keys = servers[0].client.execute_command("COMMAND", "GETKEYS", *sample.call)
    except redis.ResponseError as e:
        assert "no key arguments" in str(e) or len(sample.call) == 1  # of FLUSHALL alone it says that a word is missing
        keys = []
    assert sorted(sample.call[n] for n in known_row(sample.call[0]).key_positions(sample.call)) == sorted(keys)


# -- what commands do
@EACH_SAMPLE
def test_unconditional_form_does_the_same(servers: tuple[Server, Server], sample: Sample) -> None:
    one, two = servers
    for server, call in ((one, sample.call), (two, normalise(sample.call))):
        server.begin(sample.setup)
        before = server.dataset()
        server.run([call])
    done = one.dataset()
    assert same(done, two.dataset())
    row_ = known_row(sample.call[0])
    assert done != before or row_.family == "server" or row_.name in (b"PFCOUNT", b"PFDEBUG"), "no effect"


def same(a: tuple[Dataset, Any], b: tuple[Dataset, Any]) -> bool:
    """Equal but for the moments that relative expiries give, which follow the clock."""
    (values, moments), (others, other_moments) = taken_apart(a[0]), taken_apart(b[0])
    if (values, a[1]) != (others, b[1]) or moments.keys() != other_moments.keys():
        return False
    return all(
        m == o or min(m, o) >= 0 and MOMENT_MS not in (m, o) and abs(m - o) <= 60_000
        for m, o in ((moment, other_moments[name]) for name, moment in moments.items())
    )


def taken_apart(dataset: Dataset) -> tuple[dict[Any, Any], dict[Any, int]]:
    """Values without expiries, and the expiries of keys and fields."""
    values: dict[Any, Any] = {}
    moments: dict[Any, int] = {}
    for place, (kind, value, at_ms) in dataset.items():
        moments[place] = at_ms
        if kind == b"hash":
            moments.update({(place, field): expires for field, (_, expires) in value.items()})
            value = {field: content for field, (content, _) in value.items()}
        values[place] = (kind, value)
    return values, moments


@EACH_SAMPLE
def test_stream_applied_elsewhere_gives_the_same(
    servers: tuple[Server, Server], stream: Stream, sample: Sample
) -> None:
    one, two = servers
    one.begin(sample.setup)
    one.run([(b"PUBLISH", b"marker", b"begin"), sample.call, (b"PUBLISH", b"marker", b"end")])
    stream.until(b"begin")
    sent = stream.until(b"end")
    assert sent, "nothing was sent"
    handled = [known_row(command[0]).handling for command in sent]
    assert set(handled) <= {"copied", "changed", "control"}
    assert not [c for c in sent if known_row(c[0]).reason.startswith("sent")], "the table says it is never sent"
    two.begin(sample.setup)
    two.run([normalise(absolute_expiry(command, 0)) for command in sent])
    assert one.dataset() == two.dataset()


@EACH_SAMPLE
def test_nothing_changes_outside_of_the_footprint(servers: tuple[Server, Server], sample: Sample) -> None:
    server = servers[0]
    if sample.call == (b"EXPIRE", b"s", b"-1"):
        return  # servers send a moment that has passed as DEL
    for call in (sample.call, normalise(sample.call)):
        server.begin(sample.setup)
        before, _ = server.dataset()
        server.run([call])
        after, _ = server.dataset()
        writes = footprint(call, 0).writes
        changed = [c for place in before.keys() | after.keys() for c in changes(place, before, after)]
        assert [c for c in changed if not any(covers(w, c) for w in writes)] == []


def changes(place: tuple[int, bytes], before: Dataset, after: Dataset) -> Iterator[Write]:
    """The smallest units that differ."""
    old, new = before.get(place), after.get(place)
    if (old[2] if old else -1) != (new[2] if new else -1):
        yield Write(*place, ("ttl", b""))
    kinds = {held[0] for held in (old, new) if held}
    if len(kinds) == 1 and kinds <= {b"hash", b"set", b"zset"}:
        a, b = old[1] if old else {}, new[1] if new else {}
        yield from (
            Write(*place, (kinds.copy().pop().decode(), e)) for e in a.keys() | b.keys() if a.get(e) != b.get(e)
        )
    elif (old and old[:2]) != (new and new[:2]):
        yield Write(*place)


def covers(write: Write, changed: Write) -> bool:
    return same_place(write, changed) and (write.element is None or write.element == changed.element)


@EACH_SAMPLE
def test_overwriting_leaves_nothing_of_what_was_there(servers: tuple[Server, Server], sample: Sample) -> None:
    server, call = servers[0], normalise(sample.call)
    writes = [w for w in footprint(call, 0).writes if w.overwrites]
    for write in writes:
        outcomes = []
        for spoiled in ((), *spoilers(write)):
            server.begin(sample.setup)
            server.run([s for s in (spoiled,) if s])
            server.run([call])
            outcomes.append(unit(write, server.dataset()[0]))
        tolerance = 60_000 if sample.name in ("SETEX", "PSETEX", "EXPIRE", "PEXPIRE") else 0
        assert all(close(o, outcomes[0], tolerance) for o in outcomes)


def spoilers(write: Write) -> list[Args]:
    """Commands that make of a unit something else."""
    key = write.key
    if write.database < 0:
        return [(b"SET", b"other", b"x")]
    if write.element is None:
        return [(b"SET", key, b"other", b"PX", b"99999999"), (b"DEL", key)]
    kind, name = write.element
    return {
        "ttl": [(b"PEXPIRE", key, b"999999"), (b"PERSIST", key)],
        "hash": [(b"HSET", key, name, b"9"), (b"HDEL", key, name)],
        "set": [(b"SADD", key, name), (b"SREM", key, name)],
        "zset": [(b"ZADD", key, b"99", name), (b"ZREM", key, name)],
    }[kind]


def unit(write: Write, dataset: Dataset) -> Any:
    if write.database < 0:
        return dataset
    held = dataset.get((write.database, write.key))
    if held is None:
        return None
    if write.element is None:
        return held
    return held[2] if write.element[0] == "ttl" else held[1].get(write.element[1])


def close(a: Any, b: Any, tolerance: int) -> bool:
    if tolerance and isinstance(a, tuple) and isinstance(b, tuple):
        return a[:2] == b[:2] and abs(a[2] - b[2]) <= tolerance
    if tolerance and isinstance(a, int) and isinstance(b, int):
        return abs(a - b) <= tolerance
    return bool(a == b)


# -- pairs of commands
def commands(text: str) -> list[Args]:
    return [tuple(line.strip().encode().split()) for line in text.split(";") if line.strip()]


POOL = commands(f"""
    SET k v; SET k 5; SET k w; SET k v PXAT {MOMENT_MS}; SET k v KEEPTTL; MSET k v j w; MSET k 5; SET j w; DEL
    k; DEL k j; UNLINK k; APPEND k 1; SETRANGE k 2 x; SETBIT k 7 1; SETBIT k 7 0; SETBIT k 20 1; INCR k; DECR k;
    INCRBY k 7; DECRBY k 3; BITFIELD k SET u8 0 7; PFADD k a; PFADD k b c; PFADD k d e f g; PFADD k ; HSET k f
    1; HSET k f 2; HSET k g 1 h 2; HSET k f 2 i 3; HDEL k f; HDEL k g f; HINCRBY k f 2; HINCRBY k f -1; HINCRBY
    k g 3; SADD k a; SADD k a b; SADD k 1 2; SREM k a; SREM k b a; SREM k 1; SMOVE k j a; ZADD k 1 a; ZADD k 2
    a; ZADD k 3 b; ZADD k 1 a 2 c; ZADD k GT 5 a 6 b; ZINCRBY k 1 a; ZINCRBY k 0.1 a; ZREM k a; ZREM k b;
    ZREMRANGEBYRANK k 0 0; ZPOPMIN k; LPUSH k a; LPUSH k b c; RPUSH k a; RPUSH k b; LPOP k; RPOP k; LSET k 0 x;
    LREM k 0 a; LINSERT k BEFORE a y; LTRIM k 0 0; LMOVE k j LEFT RIGHT; XADD k 5-1 f v; XADD k 6-1 f v; XDEL k
    1-1; XTRIM k MAXLEN 0; PEXPIREAT k {MOMENT_MS}; PEXPIREAT k {MOMENT_MS + 5}; PERSIST k; RENAME k j; RENAME j
    k; COPY k j REPLACE; COPY j k REPLACE; MOVE k 3; SUNIONSTORE k j k; SUNIONSTORE j k; ZUNIONSTORE k 1 j;
    BITOP NOT k j; PFMERGE k j; SORT k BY nosort STORE j; SORT j BY w_* STORE k; FLUSHDB; FLUSHALL; SWAPDB 0 3;
    SWAPDB 3 4; PUBLISH c m
    """)
STATES = [
    commands(text)
    for text in (
        "",
        "SET k 5",
        f"SET k 5 PXAT {MOMENT_MS - 9}",
        "SET k text; SET j x",
        "HSET k f 1",
        f"HSET k f 1; PEXPIREAT k {MOMENT_MS - 9}",
        f"HSET k f 1 g 2 h 7; PEXPIREAT k {MOMENT_MS - 9}; SADD j a",
        f"SADD k a; PEXPIREAT k {MOMENT_MS - 9}",
        f"SADD k a b; SADD j z; PEXPIREAT k {MOMENT_MS - 9}",
        "SADD k a b 1 2 c; SADD j a",
        f"ZADD k 1 a; PEXPIREAT k {MOMENT_MS - 9}",
        "ZADD k 1 a 2 b 9 z; ZADD j 4 a",
        "RPUSH k a",
        f"RPUSH k a b a; PEXPIREAT k {MOMENT_MS - 9}; RPUSH j 3 1",
        "PFADD k a b x y z; PFADD j q",
        "XADD k 1-1 f v",
        "SET j 5; SELECT 3; SET k other; SELECT 0",
    )
]

# Runs the state, then the commands; a table of errors by command, and the data.
ORDER = b"""
local commands = cjson.decode(table.remove(ARGV, 1))
redis.call('FLUSHALL')
local failed = {}
for n, c in ipairs(commands) do
  local r = redis.pcall(unpack(c))
  if type(r) == 'table' and r.err then failed[#failed + 1] = n end
end
""" + SNAPSHOT.replace(b"return out", b"redis.call('SELECT', 0) return {failed, out}")


def play(server: Server, state: list[Args], *calls: Args) -> tuple[int, Dataset]:
    """The number of commands that failed after the state, and the data at the end."""
    words = "[" + ",".join("[" + ",".join(f'"{w.decode()}"' for w in c) + "]" for c in (*state, *calls)) + "]"
    failed, out = server.client.execute_command("EVAL", ORDER, 0, words, *DATABASES)
    return len(failed), as_dataset(out)


def takes_effect(server: Server, state: list[Args], call: Args) -> bool:
    (before_failed, before), (failed, after) = play(server, state), play(server, state, call)
    return failed == before_failed and (known_row(call[0]).change in ("assigns", "nothing") or after != before)


def check_orders(server: Server, state: list[Args], p: Args, q: Args) -> None:
    if commute(p, 0, q, 0):
        one, other = play(server, state, p, q), play(server, state, q, p)
        assert one[1] == other[1], (state, p, q)
        failed = play(server, state)[0]  # of the state itself
        assert (one[0], other[0]) == (failed, failed), (state, p, q)


@pytest.mark.slow
def test_every_pair_that_commutes_does_so_from_every_state(servers: tuple[Server, Server]) -> None:
    for state in STATES:
        effective = [p for p in POOL if takes_effect(servers[0], state, p)]
        for p, q in itertools.combinations_with_replacement(effective, 2):
            check_orders(servers[0], state, p, q)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_commands_that_commute_do_so_from_a_random_state(servers: tuple[Server, Server], data: st.DataObject) -> None:
    state = data.draw(st.sampled_from(STATES)) + data.draw(st.lists(st.sampled_from(POOL), max_size=4))
    effective = [p for p in POOL if takes_effect(servers[0], state, p)]
    p = data.draw(st.sampled_from(effective))
    partners = [q for q in effective if commute(p, 0, q, 0) and touch(p) & touch(q)]
    check_orders(servers[0], state, p, data.draw(st.sampled_from(partners or [p])))


def touch(call: Args) -> set[tuple[int, bytes]]:
    return {(w.database, w.key) for w in footprint(call, 0).writes}


def test_element_added_beside_a_last_one_removed_is_known_not_to_commute(servers: tuple[Server, Server]) -> None:
    state, add, remove = STATES[7], (b"SADD", b"k", b"b"), (b"SREM", b"k", b"a")
    assert play(servers[0], state, add, remove) != play(servers[0], state, remove, add)
    assert not commute(add, 0, remove, 0)
    assert not any(
        same_place(a, b) for a, b in itertools.product(footprint(add, 0).writes, footprint(remove, 0).writes)
    )


def test_order_of_pfadd_shows_in_the_bytes(servers: tuple[Server, Server]) -> None:
    """The same registers, but runs of equal ones are cut at other places: so two PFADD are not said to commute."""
    state = commands("PFADD k e60419; PFADD k e78824; PFADD k e4941; PFADD k e42410; PFADD k e70937; PFADD k e75856")
    p, q = (b"PFADD", b"k", b"e63695"), (b"PFADD", b"k", b"e44468")
    assert play(servers[0], state, p, q) != play(servers[0], state, q, p)
    assert not commute(p, 0, q, 0)
